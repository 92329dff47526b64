"""What the tables beside the peers say: ratios of pairs, what failed, the page, command lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import accuracy, page, run, series, systems, tasks, whole
from benchmarks.peers.bounded import Bounds, Outcome, Peaks
from benchmarks.peers.page import Table
from benchmarks.peers.series import Series, Trial, Trials
from benchmarks.peers.systems import BATCHED, FUNCTION, LOOP, SCRIPT, WARM
from benchmarks.peers.work.settings import VARIABLE, Work

MIB = 1 << 20
WORK = Work("trivial", 2, 3, "/scratch/0")


def trials(*walls: float, fault: str = "", said: str = "", **found: Any) -> Trials:
    peaks = Peaks(100 * MIB, 3, 7)
    runs = [Outcome(50.0, wall_s, 2 * wall_s, peaks, fault, said) for wall_s in walls]
    return Trials({turn: Trial(outcome, found) for turn, outcome in enumerate(runs)})


def test_a_ratio_is_the_median_of_pairs_of_the_same_turn() -> None:
    peer, base = trials(10, 90, 20), trials(1, 3, 4)
    assert series.ratio_of_pairs(peer, base, series.wall) == 10
    del peer.runs[1], peer.runs[2]  # it was too slow to be run again
    assert series.ratio_of_pairs(peer, base, series.wall) == 10
    assert series.ratio_of_pairs(Trials(), base, series.wall) is None


def test_a_system_is_not_run_again_after_a_fault_or_a_long_run() -> None:
    assert trials(1, 2).due()
    assert not trials(1, series.ONCE_S + 1).due()
    assert not trials(1, fault="ended with 1").due()
    assert not Trials(missing="cannot be installed").due()


def test_the_largest_peak_counts_wherever_it_was_seen() -> None:
    mine = trials(1)
    assert (mine.memory, mine.processes) == (100 * MIB, 3)
    mine.close = Peaks(120 * MIB, 2, 900)
    assert (mine.memory, mine.processes) == (120 * MIB, 3)


def rows(**others: Trials) -> dict[str, list[str]]:
    all_ = {SCRIPT: trials(2, 2, 2), FUNCTION: trials(1, 1, 1)} | others
    table = whole.table("Speed", "about", all_, dict.fromkeys(others, "wall >= 5 x"))
    return {row[0]: list(row) for row in table.rows}


def test_a_row_sets_a_whole_command_beside_both_of_coveys() -> None:
    row = rows(peer=trials(20, 22, 24))["peer"]
    assert row == [
        "peer", "22.00 s", "44.00 s", "100 MiB", "3", "11.00 x", "22.00 x", "1.00 x",
        "wall >= 5 x", "20.00, 22.00, 24.00 s",
    ]  # fmt: skip


def test_a_run_that_was_stopped_is_told_with_what_was_measured_until_then() -> None:
    row = rows(peer=trials(180, fault="stopped after 180 s"))["peer"]
    assert row[1:6] == ["> 180.00 s", "> 360.00 s", "> 100 MiB", "3", "> 90.00 x"]
    assert row[-1] == "stopped after 180 s"


def test_runs_that_ended_well_count_beside_one_that_did_not() -> None:
    peer, late = trials(20, 24), trials(180, fault="stopped after 180 s")
    peer.runs[2] = late.runs[0]
    row = rows(peer=peer)["peer"]
    assert row[1] == "22.00 s"
    assert row[5] == "11.00 x"
    assert row[-1] == "20.00, 24.00 s; stopped after 180 s"


def test_the_time_of_a_run_that_failed_is_not_told() -> None:
    row = rows(peer=trials(1, fault="ended with 1", said="a\n\x1b[91mOops | no\x1b[0m\n\n"))["peer"]
    assert row[1] == "failed"
    assert row[5:7] == ["-", "-"]
    assert row[-1] == "ended with 1: Oops \\| no"


def test_a_peer_that_is_not_there_has_a_row_that_says_why() -> None:
    row = rows(peer=Trials(missing="cannot be installed: no network"))["peer"]
    assert len(row) == len(whole.COLUMNS)
    assert row[-1] == "cannot be installed: no network"


def test_no_ratio_is_told_beside_a_run_of_coveys_that_failed() -> None:
    table = whole.table("Speed", "", {SCRIPT: trials(1, fault="ended with 1"), "p": trials(2)}, {})
    assert table.rows[1][5:8] == ["-", "-", "-"]


def test_the_page_has_facts_and_tables(tmp_path: Path) -> None:
    table = Table("Speed", "About speed.", ("system", "wall"), [["it", "1 s"]], {"it": {"runs": 1}})
    page.write(tmp_path, {"date": "today"}, [table])
    text = (tmp_path / "PEERS.md").read_text()
    assert "- date: today" in text
    assert "About speed.\n\n| system | wall |\n| --- | --- |\n| it | 1 s |" in text
    content = json.loads((tmp_path / "PEERS.json").read_text())
    assert content["tables"][0]["data"] == {"it": {"runs": 1}}


def test_the_target_is_reached_by_the_first_model_that_is_good_enough() -> None:
    curve = [
        {"models": models, "accuracy": share, "time": 60.0 + models}
        for models, share in enumerate([0.1, 0.8, 0.9, 0.85])
    ]
    found = accuracy.reached(0.85, curve, 50.0)
    assert found == {"best": 0.9, "models": 2, "target_s": 12.0}
    assert accuracy.reached(0.95, curve, 50.0) == {"best": 0.9}


def test_a_target_that_is_not_reached_is_told_as_never() -> None:
    base = trials(2, best=0.9, models=3, target_s=2.0)
    found = {SCRIPT: base, FUNCTION: base, "peer": trials(9, best=0.5)}
    assert accuracy.row("peer", found)[1:3] == ["never", "-"]
    found["peer"] = trials(9, best=0.9, models=3, target_s=8.0)
    assert accuracy.row("peer", found)[1:3] == ["8.00 s", "3"]
    assert accuracy.row("peer", found)[6] == "4.00 x"
    found["peer"] = trials(9, fault="ended with 1")
    assert len(accuracy.row("peer", found)) == len(accuracy.COLUMNS)


def test_mnist_is_measured_where_its_archive_is_named() -> None:
    assert [goal.name for goal in accuracy.goals({})] == ["digits"]
    named = accuracy.goals({"COVEY_BENCH_MNIST": "/data/mnist.npz"})
    assert [goal.data for goal in named] == ["", "/data/mnist.npz"]


def test_a_client_task_is_set_beside_coveys() -> None:
    found = {FUNCTION: trials(2, task_s=0.001), "pfl": trials(3, task_s=0.003)}
    assert tasks.row("pfl", found) == [
        "pfl", "3.000 ms", "100 MiB", "3.00 x", "-", ">= 2 x", "3.000 ms",
    ]  # fmt: skip
    found["pfl"] = trials(3, fault="ended with 1")
    assert len(tasks.row("pfl", found)) == len(tasks.COLUMNS)


def test_later_rounds_alone_tell_the_time_of_a_client_task(tmp_path: Path) -> None:
    work = replace(WORK, clients=10, folder=str(tmp_path))
    work.times.write_text("[9.0, 0.1, 0.3, 0.2]")
    outcome = trials(1).runs[0].outcome
    assert tasks.read(work, outcome)["task_s"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("system", "task", "words", "folder"),
    [
        (SCRIPT, "trivial", ["run", "job.py"], "covey"),
        (SCRIPT, "big", ["/venv/bin/python", "job.py"], "covey"),
        (FUNCTION, "trivial", ["/venv/bin/python", "function.py"], "covey"),
        (BATCHED, "tasks", ["/venv/bin/python", "batched.py"], "covey"),
        (LOOP, "tasks", ["/venv/bin/python", "loop.py"], "work"),
        ("nvflare", "trivial", ["/venv/bin/python", "job.py"], "nvflare"),
        ("pfl", "big", ["/venv/bin/python", "job.py"], "pfl"),
    ],
)
def test_a_system_is_run_in_the_folder_of_its_programs(
    system: str, task: str, words: list[str], folder: str
) -> None:
    work = replace(WORK, task=task)
    call = systems.call(system, Path("/venv/bin/python"), work)
    assert list(call.command)[-2:] == words
    assert call.cwd == systems.HERE / folder
    assert (call.cwd / words[1]).is_file()
    assert json.loads(call.variables[VARIABLE])["task"] == task


def test_flwr_has_a_superlink_of_its_own_and_as_many_nodes_as_clients() -> None:
    calls = [systems.call("flwr", Path("/venv/bin/python"), WORK) for _ in range(2)]
    assert list(calls[0].command)[:2] == ["/venv/bin/flwr", "run"]
    assert calls[0].command[-1] == "num-supernodes=2"
    assert calls[0].variables["PATH"].startswith("/venv/bin:")
    ports = [call.variables["FLWR_LOCAL_CONTROL_API_PORT"] for call in calls]
    assert all(port.isdigit() for port in ports)
    assert calls[0].cwd == Path(WORK.folder)


def test_of_two_runs_of_flwr_the_second_counts(tmp_path: Path) -> None:
    work = replace(WORK, folder=str(tmp_path))
    ran = trials(30).runs[0].outcome
    work.times.write_text("[20.0, 10.0]")
    assert series.corrected(WARM, work, ran).fault == "did not reach its end"
    work.done.touch()
    assert series.corrected(WARM, work, ran).wall_s == 10.0
    assert series.corrected("flwr", work, ran).wall_s == 30


def test_work_is_told_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work("tasks", 1000, 5, "/scratch/1", "/data/mnist.npz", training=False)
    for name, value in work.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Work.from_environment() == work


def test_some_tables_and_some_peers_can_be_asked_for() -> None:
    options = run.parse(["--only", "trivial", "--peers", "flwr,pfl", "--repeats", "1"])
    assert (options.only, options.peers, options.repeats) == (["trivial"], ["flwr", "pfl"], 1)
    with pytest.raises(SystemExit):
        run.parse(["--peers", "flwr,nobody"])


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], list[str]]:
    """Has runs do nothing but note their order; takes what fault each system shall have."""

    def prepare(faults: dict[str, str]) -> list[str]:
        order: list[str] = []

        def run_nothing(call: Any, bounds: Bounds, *rest: float) -> Outcome:
            name = call.cwd.name
            order.append(name + ("*" if rest else ""))
            return Outcome(0.0, 1.0, 1.0, Peaks(MIB, 1, 1), faults.get(name, ""), "")

        monkeypatch.setattr(series, "run", run_nothing)
        return order

    return prepare


def test_systems_take_turns_and_are_looked_at_closely_last(
    tmp_path: Path, outcomes: Callable[[dict[str, str]], list[str]]
) -> None:
    order = outcomes({"nvflare": "ended with 1"})
    pythons = {name: Path("/venv/bin/python") for name in (SCRIPT, "nvflare", "pfl")}
    missing = {"flwr": "cannot be installed"}
    found = Series(pythons, missing, tmp_path, Bounds(60)).take_turns(WORK, 2)
    assert order == ["covey", "nvflare", "pfl", "covey", "pfl", "covey*", "pfl*"]
    assert found["nvflare"].fault == "ended with 1"
    assert found["flwr"].missing == "cannot be installed"


def test_a_run_that_cannot_begin_or_tells_no_figures_has_failed(
    tmp_path: Path, outcomes: Callable[[dict[str, str]], list[str]]
) -> None:
    pythons = {"pfl": tmp_path / "nothing"}
    found = Series(pythons, {}, tmp_path, Bounds(60)).take_turns(WORK, 2)
    assert found["pfl"].fault.startswith("did not begin")
    outcomes({})
    found = Series(pythons, {}, tmp_path, Bounds(60)).take_turns(WORK, 2, tasks.read)
    assert found["pfl"].fault.startswith("told no figures")


def test_flwr_failed_if_its_server_did_not_reach_its_end(
    tmp_path: Path, outcomes: Callable[[dict[str, str]], list[str]]
) -> None:
    outcomes({})
    pythons = {"flwr": Path("/venv/bin/python")}
    found = Series(pythons, {}, tmp_path, Bounds(60)).take_turns(WORK, 1)
    assert found["flwr"].fault == "did not reach its end"
