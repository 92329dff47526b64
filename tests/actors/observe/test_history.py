"""The history of a run: complete, in order, and not in memory."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.history import BLOCK, History
from covey.actors.observe.journal import Journal

MANY = 500


def event(number: int) -> RunEvent:
    """An event that can be told from others."""
    data = {"metrics": {"loss": number / 7}, "task": "train", "sites": ["a", None, True]}
    return RunEvent(EventKind.SITE_FINISHED, number, f"site-{number}", data, float(number))


@pytest.mark.parametrize("in_file", [True, False])
def test_old_events_are_what_they_were(tmp_path: Path, in_file: bool) -> None:
    history = History(tmp_path / "events.jsonl" if in_file else None)
    for number in range(MANY):
        history.append(event(number))
        if number % 50 == 0:
            history.flush()
    assert len(history) == MANY
    assert list(history) == [event(number) for number in range(MANY)]
    assert history[-1] == event(MANY - 1)
    assert history[2:4] == [event(2), event(3)]
    history.close()
    assert history[0] == event(0)


def test_memory_holds_only_the_last_events(tmp_path: Path) -> None:
    history = History(tmp_path / "events.jsonl")
    for number in range(MANY):
        history.append(event(number))
        history.flush()
    assert len(history._recent) < 2 * BLOCK
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)[1] for line in lines] == list(range(MANY))


def test_a_history_goes_on_behind_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = History(path)
    first.append(event(1))
    first.close()
    second = History(path)
    for number in range(3 * BLOCK):
        second.append(event(number))
    second.flush()
    assert second._first
    assert second[0] == event(0)


def test_what_a_full_disk_refuses_is_still_there(tmp_path: Path) -> None:
    history = History(tmp_path / "events.jsonl")
    history.append(event(0))
    history.flush()
    assert history._file is not None
    fd = history._file._fd
    history._file._fd = os.open("/dev/full", os.O_WRONLY)
    for number in range(1, 3 * BLOCK):
        history.append(event(number))
        with pytest.raises(OSError, match=r"No space.*events\.jsonl"):
            history.flush()
    assert list(history) == [event(number) for number in range(3 * BLOCK)]
    os.close(history._file._fd)
    history._file._fd = fd
    for number in range(3 * BLOCK, MANY):
        history.append(event(number))
    history.close()
    assert list(history) == [event(number) for number in range(MANY)]
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)[1] for line in lines] == list(range(MANY))


def test_a_late_follower_reads_everything_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(MANY):
        journal.record(event(number))
    journal.record(RunEvent(EventKind.RUN_FINISHED, data={"status": "completed"}))
    journal.close()

    async def main() -> list[RunEvent]:
        return [seen async for seen in journal.follow()]

    seen = asyncio.run(main())
    assert seen[:-1] == [event(number) for number in range(MANY)]
    assert seen[-1].kind is EventKind.RUN_FINISHED
