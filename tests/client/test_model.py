from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from covey.client import BadModel, FLModel, ParamsType


class ForeignType(str, Enum):  # noqa: UP042 (as others write it)
    FULL = "full, in other words"
    DIFF = "another"


@pytest.mark.parametrize(
    "given", ["DIFF", "diff", "ParamsType.DIFF", ParamsType.DIFF, ForeignType.DIFF]
)
def test_a_type_may_be_given_in_any_form_that_names_it(given: Any) -> None:
    assert FLModel(params_type=given, params={}).params_type is ParamsType.DIFF


def test_parameters_without_a_type_are_full() -> None:
    assert FLModel(params={}).params_type is ParamsType.FULL
    assert FLModel(metrics={"a": 1}).params_type is None
    assert ParamsType.FULL == "FULL"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"params_type": "HALF", "params": {}}, "'HALF'; expected FULL or DIFF"),
        ({"params_type": "FULL"}, "params is None"),
        ({"params": [1]}, "params: is a list"),
        ({"metrics": 0.5}, "metrics: is a float"),
        ({"meta": "x"}, "meta: is a str"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BadModel, match=words):
        FLModel(**arguments)


def test_free_data_is_a_copy_and_parameters_are_not() -> None:
    params, meta = {"w": 1}, {"a": 1}
    model = FLModel(params=params, meta=meta)
    assert model.params is params
    assert model.meta == meta
    assert model.meta is not meta
    assert "1 params" in repr(model)
