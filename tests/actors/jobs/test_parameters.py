"""Lending the model to functions: private to each call, and never lent again while held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from covey.actors.jobs.parameters import Parameters
from covey.algorithms import BadUpdate
from covey.algorithms.tensors import Layout, Packer

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float64)}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A model file of STATE."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(Packer(Layout.of(STATE)).pack(STATE))
    return str(file)


def unpacked(blob: Any) -> dict[str, torch.Tensor]:
    """The tensors of an update's blob."""
    data = bytearray(blob.buffer)
    return Packer(Layout.parse(data)).unpack(data)


def test_an_update_in_place_is_what_the_function_left(path: str) -> None:
    model = Parameters(())
    params, token = model.lend(path, 0)
    params["a"] += 1.0
    update = unpacked(model.pack(params, token))
    assert torch.equal(update["a"], STATE["a"] + 1.0)
    assert torch.equal(update["b"], STATE["b"])


def test_memory_is_lent_again_with_the_models_numbers(path: str) -> None:
    model = Parameters(())
    params, token = model.lend(path, 0)
    place = params["a"].data_ptr()
    params["a"].zero_()
    first = model.pack(params, token)
    del params, token
    params, _ = model.lend(path, 0)
    assert params["a"].data_ptr() == place
    assert torch.equal(params["a"], STATE["a"])
    assert torch.equal(unpacked(first)["a"], torch.zeros(2, 3))


def test_a_tensor_that_the_function_keeps_stays_its_own(path: str) -> None:
    model = Parameters(())
    params, token = model.lend(path, 0)
    kept = params["b"]
    model.pack(params, token)
    del params, token
    kept.fill_(7.0)
    params, _ = model.lend(path, 0)
    params["b"].fill_(1.5)
    assert torch.equal(kept, torch.full((4,), 7.0, dtype=torch.float64))


def test_a_tensor_whose_memory_was_changed_for_other_is_packed_by_value(path: str) -> None:
    model = Parameters(())
    params, token = model.lend(path, 0)
    params["a"].data = torch.full((2, 3), 9.0)
    update = unpacked(model.pack(params, token))
    assert torch.equal(update["a"], torch.full((2, 3), 9.0))
    del params, token
    params, _ = model.lend(path, 0)
    assert torch.equal(params["a"], STATE["a"])


def test_a_tensor_that_learnt_to_require_gradients_is_not_lent_again(path: str) -> None:
    model = Parameters(())
    params, token = model.lend(path, 0)
    params["a"].requires_grad_()
    model.pack({name: value.detach() for name, value in params.items()}, token)
    del params, token
    params, _ = model.lend(path, 0)
    assert not params["a"].requires_grad


def test_new_tensors_and_other_kinds_may_be_returned(path: str) -> None:
    model = Parameters(())
    _, token = model.lend(path, 0)
    update = unpacked(model.pack({"a": np.zeros((2, 3)), "b": torch.zeros(4)}, token))
    assert update["a"].dtype == torch.float32
    assert torch.equal(update["b"], torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("exclude", [(), ("b",)])
def test_numbers_that_are_not_finite_are_refused_by_name(path: str, exclude: tuple[str]) -> None:
    model = Parameters(exclude)
    params, token = model.lend(path, 0)
    params["a"][0, 0] = float("nan")
    with pytest.raises(BadUpdate, match="NaN") as caught:
        model.pack(params, token)
    assert caught.value.tensor == "a"


def test_excluded_variables_are_left_out(path: str) -> None:
    model = Parameters(("b",))
    params, token = model.lend(path, 0)
    assert set(unpacked(model.pack(params, token))) == {"a"}


def test_a_new_round_lends_the_new_model(path: str) -> None:
    model = Parameters(())
    params, token = model.lend(path, 0)
    model.pack(params, token)
    other = {name: value + 1 for name, value in STATE.items()}
    Path(path).write_bytes(Packer(Layout.of(other)).pack(other))
    del params, token
    params, _ = model.lend(path, 1)
    assert torch.equal(params["a"], other["a"])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_large_model_is_lent_apart_to_each_call_even_when_its_file_is_gone(
    tmp_path: Path, kind: str
) -> None:
    make: Any = np.ones if kind == "numpy" else torch.ones
    file = tmp_path / "large.safetensors"
    layout = Layout.of({"w": make((1 << 20) + 3), "n": make(3)})
    file.write_bytes(Packer(layout).pack({"w": make((1 << 20) + 3), "n": make(3)}))
    before = file.read_bytes()
    assert len(before) > 4 << 20
    model = Parameters(())
    first, token = model.lend(str(file), 0)
    first["w"] += 1
    assert file.read_bytes() == before
    file.unlink()
    second, _ = model.lend(str(file), 0)
    model.close()
    assert float(second["w"][-1]) == 1
    assert float(first["w"][-1]) == 2
    assert float(unpacked(model.pack(first, token))["w"][-1]) == 2
