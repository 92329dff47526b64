"""The order of calls: what each gives, and what a wrong order is told."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

import covey.client as flare
from covey.client import session
from covey.client.messages import Ready

if TYPE_CHECKING:
    from tests.client.conftest import Desk


def test_importing_the_room_touches_nothing_and_imports_next_to_nothing() -> None:
    program = (
        "import sys, os, signal; before = (list(sys.argv), os.getcwd(), dict(os.environ),"
        " signal.getsignal(signal.SIGINT))\n"
        "import covey.client\n"
        "assert before == (list(sys.argv), os.getcwd(), dict(os.environ),"
        " signal.getsignal(signal.SIGINT))\n"
        "print([m for m in ('torch', 'numpy', 'asyncio', 'msgpack', 'logging')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


CALLS: dict[str, Callable[[], object]] = {
    "init": flare.init,
    "is_running": flare.is_running,
    "receive": flare.receive,
    "send": lambda: flare.send(flare.FLModel(metrics={})),
    "is_train": flare.is_train,
    "is_evaluate": flare.is_evaluate,
    "is_submit_model": flare.is_submit_model,
    "get_task_name": flare.get_task_name,
    "system_info": flare.system_info,
    "get_job_id": flare.get_job_id,
    "get_site_name": flare.get_site_name,
    "get_config": flare.get_config,
    "log": lambda: flare.log("loss", 1),
    "clear": flare.clear,
    "shutdown": flare.shutdown,
}


@pytest.mark.parametrize("name", CALLS)
def test_outside_a_run_every_call_says_how_to_start_one(name: str) -> None:
    assert session.install(None) is None
    with pytest.raises(flare.NotInRun, match=rf"covey\.client\.{name}\(\).*FedAvgRecipe"):
        CALLS[name]()


@pytest.mark.parametrize("name", ["is_running", "receive", "send"])
def test_init_comes_first(desk: Desk, name: str) -> None:
    with pytest.raises(flare.WrongCall, match=r"call covey\.client\.init"):
        CALLS[name]()


def test_init_says_ready_once(desk: Desk) -> None:
    flare.init(rank="0")
    flare.init()
    assert desk.channel.sent == [Ready(os.getpid())]


def test_a_loop_sees_every_task_and_then_the_end(desk: Desk) -> None:
    desk.give(0, 1)
    desk.end()
    flare.init()
    rounds: list[int | None] = []
    while flare.is_running():
        assert flare.is_running()
        model = flare.receive()
        assert model is not None
        assert flare.receive() is model
        assert (flare.is_train(), flare.is_evaluate(), flare.is_submit_model()) == (1, 0, 0)
        assert (model.total_rounds, model.params_type) == (3, flare.ParamsType.FULL)
        assert model.meta == {"job_id": "job-1", "site_name": "site-1"}
        rounds.append(model.current_round)
        flare.send(model)
    assert rounds == [0, 1]
    assert flare.receive() is None
    assert not flare.is_running()
    assert [answer.round for answer in desk.answers] == [0, 1]
    assert desk.channel.blobs == [desk.model.read_bytes()] * 2


def test_receive_gives_none_when_the_time_is_over(desk: Desk) -> None:
    flare.init()
    assert flare.receive(timeout=0.01) is None
    desk.give(0)
    assert flare.receive(timeout=0.01) is not None


def test_without_a_task_asking_for_its_name_is_an_error(desk: Desk) -> None:
    flare.init()
    with pytest.raises(flare.WrongCall, match="no task is open"):
        flare.is_train()


def test_send_needs_a_received_model_each_time(desk: Desk) -> None:
    desk.give(0)
    flare.init()
    with pytest.raises(flare.WrongCall, match="call receive"):
        flare.send(flare.FLModel(metrics={}))
    assert flare.is_running()
    with pytest.raises(flare.WrongCall, match="call receive"):
        flare.send(flare.FLModel(metrics={}))
    model = flare.receive()
    assert model is not None
    flare.send(model)
    with pytest.raises(flare.WrongCall, match="call receive"):
        flare.send(model)


def test_a_loop_that_never_answers_is_stopped(desk: Desk) -> None:
    desk.give(2)
    flare.init()

    def loop() -> None:
        while flare.is_running():
            flare.receive()

    with pytest.raises(flare.WrongCall, match="round 2 was received over and over"):
        loop()


def test_sent_and_received_parameters_are_dropped_unless_kept(desk: Desk) -> None:
    desk.give(0, 1)
    flare.init()
    received = flare.receive()
    assert received is not None
    assert received.params is not None
    own = {name: value + 1 for name, value in received.params.items()}
    sent = flare.FLModel(params=own)
    flare.send(sent)
    assert sent.params is None
    assert received.params is None
    assert own["w"].sum() == 21  # the script's own dict is whole
    received = flare.receive()
    assert received is not None
    sent = flare.FLModel(params=own)
    flare.send(sent, clear_cache=False)
    assert sent.params is own
    assert received.params is not None


def test_parameters_trained_in_place_are_freed_as_they_are_sent(desk: Desk) -> None:
    desk.give(0)
    flare.init()
    received = flare.receive()
    assert received is not None
    assert received.params is not None
    received.params["w"][:] += 1
    answer = flare.FLModel(params=received.params)
    flare.send(answer)
    assert len(desk.answers) == 1
    assert received.params is None
    assert answer.params is None


def test_parameters_trained_in_place_are_still_there_if_they_cannot_be_sent(desk: Desk) -> None:
    desk.give(0)
    flare.init()
    received = flare.receive()
    assert received is not None
    assert received.params is not None
    received.params["w"][0] = np.nan
    with pytest.raises(flare.BadModel, match="NaN"):
        flare.send(flare.FLModel(params=received.params))
    received.params["w"][0] = 0
    flare.send(flare.FLModel(params=received.params))
    assert len(desk.answers) == 1


def test_an_evaluate_task_is_answered_by_metrics_alone(desk: Desk) -> None:
    desk.give(1, name="evaluate")
    flare.init()
    model = flare.receive()
    assert model is not None
    assert flare.is_evaluate()
    model.metrics = {"accuracy": np.float64(0.75)}
    flare.send(model)
    (answer,) = desk.answers
    assert (answer.has_tensors, answer.size, answer.metrics) == (False, 0, {"accuracy": 0.75})
    assert answer.evaluates
    assert desk.channel.blobs == []


def test_a_submit_model_task_has_no_parameters_and_wants_some(desk: Desk) -> None:
    desk.give(0)
    desk.give(3, name="submit_model")
    flare.init()
    first = flare.receive()
    assert first is not None
    best = dict(first.params or {})
    flare.send(first)
    model = flare.receive()
    assert model is not None
    assert model.params is None
    assert flare.is_submit_model()
    with pytest.raises(flare.BadModel, match=r"params: is None"):
        flare.send(flare.FLModel(metrics={"x": 1}))
    flare.send(flare.FLModel(params=best))
    assert desk.answers[1].task == "submit_model"


def test_a_bad_answer_leaves_the_task_open(desk: Desk) -> None:
    desk.give(0)
    flare.init()
    model = flare.receive()
    assert model is not None
    with pytest.raises(flare.BadModel, match=r"params\['n'\]: is missing"):
        flare.send(flare.FLModel(params={"w": np.zeros((2, 3))}))
    with pytest.raises(flare.BadModel, match=r"metrics\['loss'\]: is a list"):
        flare.send(flare.FLModel(params=model.params, metrics={"loss": [1]}))
    with pytest.raises(flare.BadModel, match=r"meta\['big'\]: is a ndarray of shape \[2\]"):
        flare.send(flare.FLModel(params=model.params, meta={"big": np.zeros(2)}))
    with pytest.raises(flare.BadModel, match="expected an FLModel, got a dict"):
        flare.send(model.params)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flare.send(model)
    assert len(desk.answers) == 1


def test_parameters_of_the_other_kind_and_plain_numbers_are_taken(desk: Desk) -> None:
    torch = pytest.importorskip("torch")
    desk.join(kind="torch")
    desk.give(0)
    flare.init()
    model = flare.receive()
    assert model is not None
    assert model.params is not None
    assert all(isinstance(value, torch.Tensor) for value in model.params.values())
    assert model.params["w"].dtype == torch.float32
    flare.send(flare.FLModel(params={"w": [[1, 2, 3.5], [4, 5, 6]], "n": 9}, params_type="DIFF"))
    (answer,) = desk.answers
    assert answer.params_type == "DIFF"
    data = desk.channel.blobs[0][desk.layout.data_start :]
    assert np.frombuffer(data, np.int64, 1).tolist() == [9]
    assert np.frombuffer(data, np.float32, 6, 8).tolist() == [1, 2, 3.5, 4, 5, 6]


def test_the_random_state_is_set_when_a_task_arrives(desk: Desk) -> None:
    def draw() -> tuple[float, float]:
        return random.random(), float(np.random.rand())

    desk.give(4, 5, 4)
    flare.init()
    draws: list[tuple[float, float]] = []
    for _ in range(3):
        model = flare.receive()
        assert model is not None
        draws.append(draw())
        flare.send(model)
    assert draws[0] == draws[2] != draws[1]
    assert draws[0][0] != draws[0][1]


def test_after_shutdown_there_are_no_more_tasks(desk: Desk) -> None:
    desk.give(0, 1)
    flare.init()
    assert flare.receive() is not None
    flare.shutdown()
    assert not flare.is_running()
    assert flare.receive() is None


def test_a_child_of_the_script_may_not_speak_for_it(desk: Desk) -> None:
    flare.init()
    pid = os.fork()
    if pid == 0:
        try:
            flare.receive()
        except flare.WrongCall:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_who_and_what_the_script_runs_for(desk: Desk) -> None:
    assert flare.system_info() == {"job_id": "job-1", "site_name": "site-1"}
    assert flare.get_config() == {"job_id": "job-1", "site_name": "site-1", "lr": 0.5}
    assert (flare.get_job_id(), flare.get_site_name()) == ("job-1", "site-1")
    flare.get_config()["lr"] = 9
    assert flare.get_config()["lr"] == 0.5


def test_clear_drops_what_was_received(desk: Desk) -> None:
    desk.give(0)
    flare.init()
    model = flare.receive()
    assert model is not None
    flare.clear()
    assert model.params is None
