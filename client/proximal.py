"""FedProx's proximal term, for the losses of training scripts and functions.

Here: the term itself, for torch, and its gradient, for NumPy. Not here: what sets mu (the recipe)
and what averages the models (the server: FedProx is FedAvg there).

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: "Federated Optimization in Heterogeneous Networks",
MLSys 2020, algorithm 2. In round t:

1. The server picks sites S_t and sends them the model w_t.
2. Each site k minimises h_k(w) = F_k(w) + (mu / 2) ||w - w_t||^2, starting from w_t, and gets w_k.
3. The server averages the w_k.

This file is the second summand of step 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from .errors import BadModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch


def proximal_term(
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    global_params: Mapping[str, Any],
    mu: float,
) -> torch.Tensor:
    """(mu / 2) ||w - w_t||^2 for torch, to be added to the loss; its gradient flows to w.

    Args:
        model: What is trained: a module, whose parameters count and whose buffers do not, or
            parameters by name.
        global_params: w_t, the `params` received; tensors or arrays, unchanged since. Names that
            `model` has not are ignored.
        mu: How strongly w is held to w_t; >= 0.

    Returns:
        A scalar tensor.

    Raises:
        BadModel: A parameter is not among `global_params`, or nothing is trained.
    """
    import torch

    total: Any = None
    for name, own in _named(model):
        if name not in global_params:
            raise BadModel(f"global_params[{name!r}]", "is missing; give the params received")
        start = torch.as_tensor(global_params[name]).detach()
        distance = (own - start.to(own.device, own.dtype)).square().sum()
        total = distance if total is None else total + distance
    if total is None:
        raise BadModel("model", "has no parameters to train")
    return cast("torch.Tensor", 0.5 * mu * total)


def proximal_gradient(
    params: Mapping[str, npt.NDArray[Any]],
    global_params: Mapping[str, npt.NDArray[Any]],
    mu: float,
) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """What mu (w - w_t) is for NumPy, to be added to the gradient of the loss.

    Args:
        params: w, by name.
        global_params: w_t, by the same names at least: a copy, if `params` is changed in place.
        mu: How strongly w is held to w_t; >= 0.

    Raises:
        BadModel: A parameter is not among `global_params`.
    """
    for name in params:
        if name not in global_params:
            raise BadModel(f"global_params[{name!r}]", "is missing; give the params received")
    return {name: mu * (own - global_params[name]) for name, own in params.items()}


def _named(model: Any) -> Iterable[tuple[str, Any]]:
    """Parameters by name that are trained."""
    if isinstance(model, Mapping):
        pairs = cast("Mapping[str, Any]", model).items()
    else:
        pairs = model.named_parameters()
    return [(name, own) for name, own in pairs if own.requires_grad]
