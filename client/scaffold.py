"""SCAFFOLD's client: gradients without what the clients drift apart by.

Here: the class that scripts and functions train with. Not here: the server's half
(`covey.algorithms.scaffold`, which has the paper's steps), where control variates come from
(`running.py`, and `ctx.scaffold` of functions).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, cast

from .errors import BadModel, WrongCall
from .model import FLModel
from .session import current
from .state import ClientState

# Any: tensors of torch or NumPy, which this module does not import before it sees one.


class Scaffold:
    """Steps 2 and 3 of SCAFFOLD for one round; c_i is kept until the next one.

    In a script, for each task to train::

        model = flare.receive()
        net.load_state_dict(model.params)
        scaffold = flare.Scaffold(model)
        for images, labels in batches:
            optimizer.zero_grad()
            criterion(net(images), labels).backward()
            scaffold.correct_gradients(net)
            optimizer.step()
        flare.send(scaffold.update(net.state_dict(), lr=0.1))

    A function gets one by `ctx.scaffold(params)`.

    Args:
        model: What was received, as it was received: make this before training in place.
        state: Where c_i is kept; None: by the run of this script.

    Raises:
        BadModel: There are no control variates, since the recipe is no `ScaffoldRecipe`.
    """

    def __init__(self, model: FLModel, state: ClientState | None = None) -> None:
        if model.control is None or model.params is None:
            raise BadModel("control", "is None; control variates come from a ScaffoldRecipe")
        self._state = state or current("covey.client.Scaffold()").state
        self._round = model.current_round or 0
        self._known = frozenset(model.params)
        self._control = dict(model.control)
        own = self._state.load(self._round) or {}
        self._own = {name: own.get(name, c * 0) for name, c in self._control.items()}
        self._start = {
            name: _as(c, model.params[name], copy=True) for name, c in model.control.items()
        }
        self._correction = {name: c - self._own[name] for name, c in self._control.items()}
        self._steps = 0

    def correct_gradients(self, gradients: Any) -> None:
        """Take one step's gradients g to g - c_i + c, in place. Call it once for each step.

        Args:
            gradients: A torch module after `backward`, or a dict of gradients by name of the
                parameter, arrays or tensors.

        Raises:
            BadModel: A name that the model has not.
        """
        if isinstance(gradients, MutableMapping):
            given = cast("MutableMapping[str, Any]", gradients)
        else:
            named = gradients.named_parameters()
            given = {name: own.grad for name, own in named if own.grad is not None}
        for name in given:
            if name not in self._known:
                raise BadModel(f"gradients[{name!r}]", "is of no variable of the model received")
            if name in self._correction:
                given[name] += _as(given[name], self._correction[name])
        self._steps += 1

    def update(
        self,
        params: Mapping[str, Any],
        lr: float,
        *,
        metrics: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> FLModel:
        """What to send: y and (x - y) / (K lr); c_i is set to c_i - c + (x - y) / (K lr).

        Args:
            params: y, the parameters after training.
            lr: The learning rate of the steps; where it changed, its mean over them.
            metrics: As for `FLModel`.
            meta: As for `FLModel`.

        Raises:
            WrongCall: No gradients were corrected, or `lr` is not above 0.
            BadModel: A parameter is missing.
            OSError: c_i could not be kept.
        """
        if not self._steps:
            raise WrongCall("update()", "no step was made; call correct_gradients() in each")
        if not lr > 0:
            raise WrongCall("update()", f"lr is {lr}; give the learning rate of the steps")
        for name in self._control:
            if name not in params:
                raise BadModel(f"params[{name!r}]", "is missing")
        scale = 1.0 / (self._steps * lr)
        drift = {
            name: (start - _as(start, params[name])) * scale for name, start in self._start.items()
        }
        own = {name: self._own[name] - self._control[name] + drift[name] for name in drift}
        self._state.save(self._round, own)
        return FLModel(params=params, control=drift, metrics=metrics, meta=meta)


def _as(like: Any, value: Any, *, copy: bool = False) -> Any:
    """A value as a tensor or array of the kind, type and device of another."""
    if hasattr(like, "requires_grad"):
        import torch

        return torch.as_tensor(value).detach().to(like.device, like.dtype, copy=copy)
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value, like.dtype)
    return array.copy() if copy else array
