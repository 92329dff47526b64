"""A recorder gets every event in order, ends with its run, and never holds it up."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from covey.actors.observe.errors import TrackingFailed
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.journal import Journal
from covey.actors.observe.recorder import Recorder, environment
from covey.actors.observe.recording import crowds, record
from covey.actors.observe.tracking import Experiment, Point

EXPERIMENT = Experiment("digits", "job-1", 5, {"lr": 0.1})

#: Recorders, as small as can be: no package, only what they do with their standard input.
KEEPS = "import sys; open('got', 'w').write(sys.stdin.read())"
FAILS = "print('Oops: no room left'); raise SystemExit(1)"
DIES = "import os; os.kill(os.getpid(), 9)"
STALLS = "import signal; signal.pause()"


def metric(number: int) -> RunEvent:
    data = {"key": "loss", "value": 1.5, "step": number, "type": "scalar"}
    return RunEvent(EventKind.METRIC, 0, "site-1", data, 100.0)


FINISHED = RunEvent(EventKind.RUN_FINISHED, data={"status": "completed"})


def recorder(folder: Path, code: str, **settings: Any) -> Recorder:
    code = f"import os; os.chdir({str(folder)!r}); {code}"
    command = (sys.executable, "-S", "-E", "-c", code)
    return Recorder("X", command, folder, EXPERIMENT, environment={}, **settings)


def tell_many(track: Recorder) -> None:
    for number in range(5000):  # more than a pipe takes
        track(metric(number))


async def wait_for_its_end(track: Recorder) -> None:
    await asyncio.wait([asyncio.wrap_future(track._ended)], timeout=60)


def no_thread_is_left() -> bool:
    return not any(thread.name == "X tracking" for thread in threading.enumerate())


def test_a_recorder_gets_the_experiment_and_every_event_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        track = recorder(tmp_path / "x", KEEPS)
        for number in range(2000):
            track(metric(number))
        track(FINISHED)
        await track.end()
        await track.end()
        track.close()

    asyncio.run(main())
    first, *rows, last = (tmp_path / "x" / "got").read_text().splitlines()
    assert json.loads(first) == {
        "name": "digits",
        "job": "job-1",
        "seed": 5,
        "settings": {"lr": 0.1},
    }
    assert [json.loads(row)[4].get("step") for row in rows] == [*range(2000), None]
    assert json.loads(rows[0])[:4] == ["metric", 0, "site-1", 100.0]
    assert last == "null"


def test_nothing_starts_before_there_is_something_to_record(tmp_path: Path) -> None:
    track = recorder(tmp_path, KEEPS)
    track(RunEvent(EventKind.RUN_STARTED, data={}))
    track(RunEvent(EventKind.NOTICE, data={"text": "x"}))
    assert "not started" in repr(track)
    asyncio.run(track.end())
    track.close()
    assert os.listdir(tmp_path) == []


def test_a_recorder_that_fails_is_dropped_by_the_journal_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(None)
        track = recorder(tmp_path, FAILS)
        journal.subscribe(track)
        journal.record(metric(0))
        await wait_for_its_end(track)
        journal.record(metric(1))
        journal.record(metric(2))
        notices = [e.data["text"] for e in journal.events if e.kind is EventKind.NOTICE]
        log = tmp_path / "recorder.log"
        assert notices == [f"X tracking stopped: TrackingFailed: Oops: no room left; see {log}"]
        await track.end()  # it was told, and is not told again
        track.close()

    asyncio.run(main())


def test_a_failure_that_no_event_met_is_told_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        track = recorder(tmp_path, DIES)
        track(FINISHED)
        with pytest.raises(TrackingFailed, match="ended with -9"):
            await track.end()
        await track.end()

    asyncio.run(main())


def test_a_recorder_that_stalls_is_killed_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        track = recorder(tmp_path, STALLS, end_s=0.01)
        tell_many(track)
        with pytest.raises(TrackingFailed, match=r"not done after 0\.01 s"):
            await track.end()

    asyncio.run(main())
    assert no_thread_is_left()


def test_a_recorder_too_far_behind_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        track = recorder(tmp_path, STALLS, most_waiting=3, end_s=0.01)
        with pytest.raises(TrackingFailed, match="3 events behind"):
            tell_many(track)
        with pytest.raises(TrackingFailed, match="not done"):
            await track.end()

    asyncio.run(main())


def test_a_cancelled_wait_leaves_the_recorder_to_its_work(tmp_path: Path) -> None:
    async def main() -> None:
        os.mkfifo(tmp_path / "go")
        track = recorder(tmp_path, f"open('go').read(); {KEEPS}")
        track(metric(0))
        waiting = asyncio.create_task(track.end())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        track.close()
        (tmp_path / "go").write_text("")
        await wait_for_its_end(track)
        assert (tmp_path / "got").read_text().endswith("null\n")

    asyncio.run(main())


def test_the_environment_of_a_recorder_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPACK_SERVER", "http://example.invalid")
    monkeypatch.setenv("OTHER", "1")
    variables = environment({"XPACK_MODE": "offline"}, "XPACK_")
    assert variables == {
        name: value for name, value in os.environ.items() if name != "XPACK_SERVER"
    } | {"XPACK_MODE": "offline"}
    assert "XPACK_MODE" not in os.environ


# The recorder's side ---------------------------------------------------------


class Kept:
    """A writer that keeps what it is told."""

    last: Kept

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.experiment, self.points = experiment, list[Point]()
        self.status = ""
        Kept.last = self

    def write(self, points: Sequence[Point]) -> None:
        self.points += points

    def end(self, status: str) -> None:
        self.status = status


def line(event: RunEvent) -> bytes:
    return Recorder._line(event).encode()


HEADER = json.dumps({"name": "digits", "job": "job-1", "seed": 5, "settings": {"lr": 0.1}}).encode()


@pytest.mark.parametrize("together", [1, 2, 4])
def test_the_writer_gets_every_point_and_the_runs_end(tmp_path: Path, together: int) -> None:
    lines = [HEADER, line(metric(0)), line(metric(1)), line(FINISHED)]
    parts = iter([lines[i : i + together] for i in range(0, 4, together)])
    record(Kept, tmp_path, parts)
    assert Kept.last.experiment == EXPERIMENT
    assert [point.step for point in Kept.last.points] == [0, 1]
    assert Kept.last.status == "completed"


def test_a_run_whose_end_was_not_told_was_aborted(tmp_path: Path) -> None:
    record(Kept, tmp_path, iter([[HEADER, line(metric(0))]]))
    assert Kept.last.status == "aborted"


def test_a_run_that_says_nothing_at_all_is_no_run(tmp_path: Path) -> None:
    def nothing() -> Iterator[Sequence[bytes]]:
        yield from ()

    before = getattr(Kept, "last", None)
    record(Kept, tmp_path, nothing())
    assert getattr(Kept, "last", None) is before


def test_lines_come_whole_however_the_pipe_cuts_them() -> None:
    read, write = os.pipe()
    found = crowds(read)
    os.write(write, b"one\ntw")
    assert next(found) == [b"one"]
    os.write(write, b"o\nthree\n")
    assert next(found) == [b"two", b"three"]
    os.write(write, b"four\nnull\n")
    assert list(found) == [[b"four"]]
    os.close(write)
    os.close(read)


def test_a_pipe_that_closes_ends_the_lines() -> None:
    read, write = os.pipe()
    os.write(write, b"one\ncut o")
    os.close(write)
    assert list(crowds(read)) == [[b"one"]]
    os.close(read)
