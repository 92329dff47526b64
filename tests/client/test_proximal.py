"""The proximal term is half mu times the squared distance, and its gradient is its gradient."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from covey.client import BadModel, proximal_gradient, proximal_term


def test_the_term_is_the_distance_of_parameters_alone() -> None:
    import torch

    net: Any = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    start = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        net[0].weight += 2.0
    net[1](torch.ones(3, 2))  # moves buffers, which are not trained
    term = proximal_term(net, start, 0.5)
    assert float(term.detach()) == pytest.approx(0.25 * 4 * 4)


def test_numpy_s_gradient_is_torch_s() -> None:
    torch: Any = importlib.import_module("torch")
    rng = np.random.default_rng(0)
    own, start = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    tensor: Any = torch.from_numpy(own).requires_grad_()
    term: Any = proximal_term({"w": tensor}, {"w": start}, 0.7)
    term.backward()
    np.testing.assert_allclose(
        proximal_gradient({"w": own}, {"w": start}, 0.7)["w"], tensor.grad.numpy(), rtol=1e-12
    )


def test_a_model_of_other_names_is_refused() -> None:
    import torch

    net: Any = torch.nn.Linear(2, 2)
    with pytest.raises(BadModel, match="weight"):
        proximal_term(net, {"bias": torch.zeros(2)}, 0.1)
    with pytest.raises(BadModel, match="w"):
        proximal_gradient({"w": np.zeros(2)}, {}, 0.1)
    with pytest.raises(BadModel, match="no parameters"):
        proximal_term({}, {}, 0.1)
