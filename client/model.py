"""FLModel: what a script receives and sends.

Here: the class and its checks that need no model to compare with. Not here: comparing with the
global model and writing to the wire (`running.py`). No import of torch or NumPy: a script that
uses neither pays for neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from .errors import BadModel


class ParamsType(StrEnum):
    """Whether `params` are a whole model or a difference.

    The members are strings: `"FULL"` and `ParamsType.FULL` are the same everywhere.
    """

    FULL = "FULL"
    DIFF = "DIFF"


class FLModel:
    """Parameters, metrics and free data that go between a script and the federation.

    Args:
        params_type: FULL (the values themselves) or DIFF (values minus those received).
            FULL if `params` are given without a type.
        params: Named torch tensors or NumPy arrays, such as `net.state_dict()`. In an answer
            either kind may be given, with the names and shapes of the model received.
        optimizer_params: Kept for scripts that carry it along; it is not sent.
        metrics: Named numbers. In an answer to "train" or "evaluate" they were measured on the
            model as it was received, before training, and are recorded for that model.
        start_round: First round of the run.
        current_round: Round of the task, from 0; filled in on what is received.
        total_rounds: Rounds of the run; filled in on what is received.
        meta: Free data: numbers, strings, booleans. `NUM_STEPS_CURRENT_ROUND` is the weight of
            this update in the average.
        control: Control variates by the names of the parameters they are of, where the recipe is
            a `ScaffoldRecipe`; see `Scaffold`.

    Raises:
        BadModel: For an unknown type, parameters that are no mapping, or a type without
            parameters.
    """

    def __init__(
        self,
        params_type: ParamsType | str | None = None,
        params: Mapping[str, Any] | None = None,
        optimizer_params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        start_round: int | None = 0,
        current_round: int | None = None,
        total_rounds: int | None = None,
        meta: Mapping[str, Any] | None = None,
        control: Mapping[str, Any] | None = None,
    ) -> None:
        _check_mapping("params", params)
        _check_mapping("metrics", metrics)
        _check_mapping("meta", meta)
        _check_mapping("control", control)
        if params is None and params_type is not None:
            raise BadModel("params_type", "is given, but params is None")
        self.params_type = _params_type(params_type) if params is not None else None
        # Any: tensors of torch or NumPy, which this module must not import.
        self.params: Mapping[str, Any] | None = params
        self.control = control
        self.optimizer_params = optimizer_params
        self.metrics = metrics
        self.start_round = start_round
        self.current_round = current_round
        self.total_rounds = total_rounds
        self.meta: dict[str, Any] = dict(meta) if meta is not None else {}

    def __repr__(self) -> str:
        params = "no params" if self.params is None else f"{len(self.params)} params"
        return (
            f"<FLModel {self.params_type or 'without type'}, {params}, "
            f"round {self.current_round} of {self.total_rounds}, metrics {self.metrics}>"
        )


def _params_type(given: ParamsType | str | None) -> ParamsType:
    if given is None:
        return ParamsType.FULL
    # By its name, so that the enum of another framework works too: "DIFF", "ParamsType.DIFF".
    name = str(getattr(given, "name", given)).rpartition(".")[2].upper()
    try:
        return ParamsType(name)
    except ValueError:
        raise BadModel("params_type", f"is {given!r}; expected FULL or DIFF") from None


def _check_mapping(name: str, value: object) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise BadModel(name, f"is a {type(value).__name__}; expected a dict")
