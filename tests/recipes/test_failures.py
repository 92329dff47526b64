"""What goes wrong is told: who, where, why; the run ends in a true state and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.recipes import (
    ConfigError,
    EventKind,
    FedBuffRecipe,
    JobAborted,
    JobFailed,
    Run,
    RunStatus,
    TrainContext,
)
from tests.recipes.conftest import digest_of, summary_of

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

RAISES = """
    if round == 2 and site == "site-2":
        raise ValueError("no such batch")
"""


def failures(run: Run) -> dict[str, dict[str, Any]]:
    """What was told of each site that failed."""
    events: list[Any] = []

    async def collect() -> None:
        events.extend([event async for event in run.events()])

    asyncio.run(collect())
    return {event.site: dict(event.data) for event in events if event.kind is EventKind.SITE_FAILED}


def failed(
    lab: Lab, clients: int = 3, env: dict[str, Any] | None = None, **recipe: Any
) -> JobFailed:
    """Run to a failure; checks what holds of every one."""
    with pytest.raises(JobFailed) as caught:
        lab.recipe(**recipe).execute(lab.env(clients, **(env or {})))
    error = caught.value
    assert error.run.get_status() is RunStatus.FAILED
    summary = summary_of(error.run.get_result())
    assert summary["status"] == "failed"
    assert summary["site"] == error.site
    lab.check_no_process_left()
    return error


def test_one_site_may_fail_where_enough_others_are_left(lab: Lab) -> None:
    lab.client(RAISES)
    run = lab.recipe(num_rounds=4, min_clients=2).execute(lab.env())
    assert run.get_status() is RunStatus.COMPLETED
    ((site, failure),) = failures(run).items()
    assert (site, failure["kind"], failure["text"]) == ("site-2", "ValueError", "no such batch")
    assert Path(failure["file"]) == lab.folder / "client.py"
    place = {"file": failure["file"], "line": failure["line"]}
    assert summary_of(run.get_result())["failures"] == [
        {"site": "site-2", "round": 2, "kind": "ValueError", "text": "no such batch", **place}
    ]
    answered = [(row["round"], row["site"]) for row in run.metrics if row["site"] != "global"]
    assert answered.count((1, "site-2")) == 1
    assert {site for round, site in answered if round >= 2} == {"site-1", "site-3"}
    lab.check_no_process_left()


def test_the_summary_lists_a_hundred_failures_at_most(lab: Lab) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        if ctx.site != "site-1":
            raise ValueError("no such batch")
        return params

    run = lab.recipe(train=train, num_rounds=2, min_clients=1).execute(lab.env(81))
    told = summary_of(run.get_result())["failures"]
    assert len(told) == 100
    assert [failure["round"] for failure in told].count(0) == 80


def test_a_site_too_few_fails_the_run_and_keeps_the_last_good_model(lab: Lab) -> None:
    lab.client()
    good = lab.recipe(num_rounds=2).execute(lab.env())
    lab.client(RAISES)
    error = failed(lab, num_rounds=4, min_clients=3)
    assert (error.site, error.round) == ("site-2", 2)
    assert "round 2 needs 3 sites and 2 are left" in str(error)
    *_, file, source = str(error).splitlines()
    assert file.startswith(f'  File "{lab.folder / "client.py"}", line ')
    assert source.strip() == 'raise ValueError("no such batch")'
    assert digest_of(error.run) == digest_of(good)
    assert summary_of(error.run.get_result())["rounds"] == 2


def test_a_run_whose_every_client_fails_is_failed(lab: Lab) -> None:
    lab.client("raise RuntimeError(site)")
    error = failed(lab, min_clients=1)
    assert set(failures(error.run)) == {"site-1", "site-2", "site-3"}
    assert "RuntimeError: site-" in str(error)


@pytest.mark.parametrize("min_clients", [None, 1])
def test_the_same_mistake_at_all_sites_is_told_once(lab: Lab, min_clients: int | None) -> None:
    lab.client(text="import covey.client as flare\nflare.init()\n{}['data']\n")
    error = failed(lab, clients=4, min_clients=min_clients)
    assert str(error) == (
        "all 4 sites failed alike: KeyError: 'data'\n"
        f"  File \"{lab.folder / 'client.py'}\", line 3\n    {{}}['data']"
    )
    assert error.site is not None
    assert set(failures(error.run)) == {"site-1", "site-2", "site-3", "site-4"}


def test_who_has_answered_is_reason_to_go_on_without_the_rest(lab: Lab) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        if ctx.site != "site-1":
            raise LookupError(f"{ctx.site} has no data")
        return params

    text = str(failed(lab, train=train)).splitlines()[0]
    assert text.startswith("round 0 needs 3 sites and ")
    assert "would go on without the rest); site-" in text


def test_the_same_mistake_in_asynchronous_training_is_told_once(lab: Lab) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        raise LookupError(f"{ctx.site} has no data")

    recipe = FedBuffRecipe(
        name="job", initial_model={"w": np.zeros(1)}, train=train, num_rounds=9, most_failures=2
    )
    with pytest.raises(JobFailed, match=r"^all 3 sites failed alike: LookupError: site-"):
        recipe.execute(lab.env())


WRONG_ANSWERS = {
    "key": ("params['extra'] = params['w']", "extra"),
    "name": ("params['W'] = params.pop('w')", "'w'"),
    "shape": ("params['w'] = params['w'][:-1]", "[5]"),
    "type": ("params['w'] = params['w'].astype('i4')", "'w'"),
    "nan": ("params['w'][2] = np.nan", "'w'"),
    "infinite": ("params['b'][0] = -np.inf", "'b'"),
    "nothing": ("params = None", "params"),
    "text": ("params['w'] = 'all of it'", "'w'"),
    "metric": ("metrics['accuracy'] = [1, 2]", "accuracy"),
}


@pytest.mark.parametrize("what", WRONG_ANSWERS)
def test_an_answer_that_does_not_fit_names_the_site_and_the_variable(lab: Lab, what: str) -> None:
    line, named = WRONG_ANSWERS[what]
    lab.client(f"if site == 'site-2': {line}")
    error = failed(lab)
    assert error.site == "site-2"
    assert named in str(error)
    assert "BadModel" in str(error)
    assert str(error).splitlines()[-1].strip().startswith("flare.send(")


def test_weights_that_are_all_zero_are_told(lab: Lab) -> None:
    lab.client("meta['NUM_STEPS_CURRENT_ROUND'] = 0")
    assert "all weights are zero" in str(failed(lab))


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_weight_that_is_none_fails_its_site_alone(lab: Lab, weight: float) -> None:
    lab.client(f"if site == 'site-1': meta['NUM_STEPS_CURRENT_ROUND'] = float('{weight}')")
    run = lab.recipe(min_clients=2).execute(lab.env())
    assert run.get_status() is RunStatus.COMPLETED
    assert failures(run)["site-1"]["kind"] == "BadUpdate"


def test_an_update_that_overflows_in_the_mean_is_left_out(lab: Lab) -> None:
    lab.client("""
        kind = flare.ParamsType.DIFF
        params = {"w": np.full(1, 3e38 if site == "site-1" else 0.0, np.float32)}
    """)
    model = {"w": np.full(1, 3e38, np.float32)}
    run = lab.recipe(initial_model=model, num_rounds=1, min_clients=2).execute(lab.env())
    assert list(failures(run)) == ["site-1"]
    assert run.model()["w"].tolist() == model["w"].tolist()


def test_a_script_that_never_sends_ends_at_its_deadline(lab: Lab) -> None:
    lab.client("if site == 'site-3': signal.pause()")
    error = failed(lab, task_timeout=0.3)
    assert error.site == "site-3"
    assert "no answer within 0.3 s, the task's deadline" in str(error)


def test_a_script_that_ends_without_answering_is_told(lab: Lab) -> None:
    lab.client("if site == 'site-3': break")
    error = failed(lab)
    assert error.site == "site-3"
    assert "ended without answering" in str(error)


def test_a_client_killed_in_mid_round_fails_its_site(lab: Lab) -> None:
    lab.client("if (site, round) == ('site-2', 1): os.kill(os.getpid(), signal.SIGKILL)")
    error = failed(lab)
    assert (error.site, error.round) == ("site-2", 1)
    assert "the process of site-2 was killed by SIGKILL" in str(error)


def test_a_client_killed_from_outside_is_made_up_for_by_the_others(lab: Lab) -> None:
    lab.client("if (site, round) == ('site-2', 1): reach('here')")
    fd = lab.fifo("here")
    killer = threading.Thread(target=lambda: os.kill(lab.reached(fd, "here"), signal.SIGKILL))
    killer.start()
    run = lab.recipe(min_clients=2).execute(lab.env(num_threads=3))
    killer.join()
    assert run.get_status() is RunStatus.COMPLETED
    assert list(failures(run)) == ["site-2"]
    lab.check_no_process_left()


def test_a_killed_template_fails_the_run(lab: Lab) -> None:
    lab.client("if (site, round) == ('site-2', 1): os.kill(os.getppid(), signal.SIGKILL)")
    error = failed(lab, num_rounds=1000)
    # Its clients end with it, but may have answered some more before they hear of it.
    assert error.round is not None
    assert 1 <= error.round < 1000
    assert error.site is not None


def test_a_failure_of_the_first_lines_names_them(lab: Lab) -> None:
    lab.client(text="import covey.client as flare\nflare.init()\n1 / 0\n")
    error = failed(lab)
    assert "ZeroDivisionError" in str(error)
    assert str(error).splitlines()[-2:] == [
        f'  File "{lab.folder / "client.py"}", line 3',
        "    1 / 0",
    ]


def test_restarted_scripts_start_anew_after_a_failure(lab: Lab) -> None:
    # A fresh process for each task: the failure of round 1 leaves nothing in round 2.
    lab.client("if (site, round) == ('site-2', 1): raise ValueError('once')")
    run = lab.recipe(min_clients=2).execute(lab.env(restart_scripts=True))
    assert [row["round"] for row in run.metrics if row["site"] == "site-2"] == [0, 2]
    lab.check_no_process_left()


def test_restarted_scripts_live_one_at_a_time_in_each_slot(lab: Lab) -> None:
    lab.client("""
        others = [int(f.name[:-5]) for f in FOLDER.glob("*.live")]
        (FOLDER / f"{os.getpid()}.live").touch()
        metrics["others"] = len(others)
        import atexit
        atexit.register(lambda: (FOLDER / f"{os.getpid()}.live").unlink())
    """)
    env = lab.env(9, restart_scripts=True, max_processes=2, num_threads=1)
    run = lab.recipe(num_rounds=1).execute(env)
    assert {row["metrics"]["others"] for row in run.metrics if row["site"] != "global"} == {0}
    assert len({pid.read_text().split()[0] for pid in lab.folder.glob("*.pids")}) == 9


def test_a_function_that_raises_names_its_own_line(lab: Lab) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        if ctx.site == "site-2":
            raise LookupError("no data")
        return params

    error = failed(lab, train=train)
    assert error.site == "site-2"
    assert "LookupError: no data" in str(error)
    assert str(error).splitlines()[-1].strip() == 'raise LookupError("no data")'
    assert f'File "{__file__}"' in str(error)


def test_waiting_for_a_slot_is_not_part_of_a_deadline(lab: Lab) -> None:
    async def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        await asyncio.sleep(0.0 if ctx.round else 0.1)  # its work: 1.2 s for all of them
        return params

    run = lab.recipe(train=train, task_timeout=0.7).execute(lab.env(12, num_threads=1))
    assert run.get_status() is RunStatus.COMPLETED


def test_a_function_past_its_deadline_fails_its_site(lab: Lab) -> None:
    async def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        if ctx.site == "site-2":
            await asyncio.Event().wait()
        return params

    assert failed(lab, train=train, task_timeout=0.2).site == "site-2"


def test_a_plain_function_past_its_deadline_misses_that_round_alone(lab: Lab) -> None:
    end = threading.Event()
    calls: set[tuple[str, int]] = set()

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        calls.add((ctx.site, ctx.round))
        if ctx.round == 0 and ctx.site == "site-2":
            end.wait(30)
        elif ctx.round == 1:
            end.set()
        return params

    recipe = lab.recipe(train=train, min_clients=1, num_rounds=3, task_timeout=1.0)
    run = recipe.execute(lab.env(2, num_threads=2))
    assert run.get_status() is RunStatus.COMPLETED
    assert calls == {(f"site-{site}", round) for site in (1, 2) for round in range(3)}


def test_a_function_that_returns_no_model_is_told(lab: Lab) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> object:
        del params, ctx
        return None

    assert "return the parameters" in str(failed(lab, train=train))


# Before anything starts --------------------------------------------------------


def test_a_missing_import_is_named_before_anything_starts(lab: Lab) -> None:
    lab.client(text="import numpy\nimport no_such_module_here\n")
    with pytest.raises(ConfigError, match="no module named 'no_such_module_here'") as caught:
        lab.recipe().execute(lab.env())
    assert caught.value.setting == "train_script"
    assert f'"{lab.folder / "client.py"}", line 2' in str(caught.value)
    assert not lab.folders()


class Bomb:
    """Tells by a file that it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_is_refused_unread(lab: Lab, protocol: int) -> None:
    trap = lab.folder / "exploded"
    model = lab.folder / "model.safetensors"
    model.write_bytes(pickle.dumps(Bomb(trap), protocol))
    lab.client()
    with pytest.raises(ConfigError, match="is a pickle; only safetensors") as caught:
        lab.recipe(initial_model=model)
    assert caught.value.setting == "initial_model"
    assert not trap.exists()


def test_torchscript_and_torch_archives_are_refused_unread(lab: Lab) -> None:
    import zipfile

    lab.client()
    for member, name in (("m/constants.pkl", "TorchScript"), ("m/data.pkl", "torch.save")):
        path = lab.folder / "model.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, b"cos\nsystem\n")
        with pytest.raises(ConfigError, match=name):
            lab.recipe(initial_model=path)


# Giving up ---------------------------------------------------------------------


def test_an_abort_ends_scripts_at_work(lab: Lab) -> None:
    lab.client("if round == 1: reach(site)")
    fds = [lab.fifo(f"site-{i}") for i in (1, 2)]
    run = lab.recipe().submit(lab.env(2, num_threads=2))
    for i, fd in enumerate(fds, 1):
        lab.reached(fd, f"site-{i}")
    assert run.get_status() is RunStatus.RUNNING
    run.abort()
    assert run.join() is RunStatus.ABORTED
    summary = summary_of(run.get_result())
    assert (summary["status"], summary["error"]) == ("aborted", "aborted by its user")
    assert summary["rounds"] == 1
    with pytest.raises(JobAborted):
        run.check()
    run.abort()  # over already: nothing happens
    lab.check_no_process_left()


def test_rounds_are_those_committed_where_the_job_could_not_tell_the_end(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from covey.recipes.simulation import Simulation

    simulations: list[Simulation] = []
    begin = Simulation.run

    async def kept(self: Simulation) -> None:
        simulations.append(self)
        await begin(self)

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        if (ctx.site, ctx.round) == ("site-1", 2):
            simulations[0]._end_early(RunStatus.FAILED, "the job is gone")
        return params

    monkeypatch.setattr(Simulation, "run", kept)
    with pytest.raises(JobFailed, match="the job is gone") as caught:
        lab.recipe(train=train, num_rounds=4).execute(lab.env())
    assert summary_of(caught.value.run.get_result())["rounds"] == 2


def test_an_abort_before_anything_runs_is_not_lost(lab: Lab) -> None:
    lab.client("signal.pause()")
    run = lab.recipe().submit(lab.env())
    run.abort()
    assert run.join() is RunStatus.ABORTED
    lab.check_no_process_left()
