from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import covey.client as flare

if TYPE_CHECKING:
    from tests.client.conftest import Desk


@flare.evaluate
def measure(input_model: flare.FLModel, value: float = 0.5) -> float:
    assert input_model.params is not None
    return value


@flare.train
def train(input_model: flare.FLModel, add: int = 0) -> flare.FLModel:
    assert input_model.params is not None
    return flare.FLModel(params={k: v + add for k, v in input_model.params.items()})


def test_metrics_of_the_received_model_go_along_with_the_update(desk: Desk) -> None:
    desk.give(0)
    desk.end()
    flare.init()
    while flare.is_running():
        model = flare.receive()
        assert measure(input_model=model, value=0.25) == 0.25
        assert train(model, add=1) is not None
    (answer,) = desk.answers
    assert answer.metrics == {"accuracy": 0.25}
    assert answer.has_tensors


def test_a_model_that_is_not_given_is_received(desk: Desk) -> None:
    desk.give(0)
    desk.end()
    flare.init()
    train()
    assert desk.answers[0].metrics == {}
    assert not desk.answers[0].evaluates
    with pytest.raises(flare.WrongCall, match="no more tasks"):
        train()


def test_an_evaluate_task_is_answered_by_the_evaluating_function(desk: Desk) -> None:
    desk.give(1, name="evaluate")
    flare.init()
    model = flare.receive()
    measure(model)
    assert train(model) is None
    (answer,) = desk.answers
    assert (answer.task, answer.metrics, answer.has_tensors) == (
        "evaluate",
        {"accuracy": 0.5},
        False,
    )


def test_a_training_function_must_return_a_model(desk: Desk) -> None:
    @flare.train
    def wrong(model: Any) -> Any:
        return model.params

    desk.give(0)
    flare.init()
    with pytest.raises(flare.BadModel, match="wrong: returned a dict"):
        wrong()
