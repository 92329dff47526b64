"""The history of a run: complete, in order, and not in memory."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.history import History
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
    assert len(history._recent) <= 65
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)[1] for line in lines] == list(range(MANY))


def test_a_history_goes_on_behind_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = History(path)
    first.append(event(1))
    first.close()
    second = History(path)
    for number in range(100):
        second.append(event(number))
    assert second[0] == event(0)


def test_what_a_full_disk_refuses_is_still_there(tmp_path: Path) -> None:
    history = History(tmp_path / "events.jsonl")
    history.append(event(0))
    os.close(history._fd)
    history._fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space"):
        history.append(event(1))
    os.close(history._fd)
    history._fd = os.open(tmp_path / "events.jsonl", os.O_RDWR | os.O_APPEND)
    for number in range(2, MANY):
        history.append(event(number))
    assert list(history) == [event(number) for number in range(MANY)]
    history.close()


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
