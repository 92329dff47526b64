"""The journal keeps every event in order and writes rows that any JSON reader takes."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.journal import Journal
from covey.actors.observe.keeping import BeforeRound, FirstRows
from covey.actors.runtime.testing import simulate


def site(round_: int, name: str = "site-1", **metrics: float) -> RunEvent:
    data = {"task": "train", "weight": 2.0, "seconds": 0.5, "bytes": 10, "metrics": metrics}
    return RunEvent(EventKind.SITE_FINISHED, round_, name, data)


def round_(number: int, best: bool = False, **metrics: float) -> RunEvent:
    data = {"task": "train", "ok": 1, "failed": 0, "seconds": 1.0, "bytes": 10, "metrics": metrics}
    return RunEvent(EventKind.ROUND_FINISHED, number, None, {**data, "best": best})


FINISHED = RunEvent(EventKind.RUN_FINISHED, data={"status": "completed"})


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_round_leaves_one_row_for_each_site_and_one_for_the_global_model(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record(RunEvent(EventKind.RUN_STARTED, data={"name": "x"}))
    journal.record(site(0, accuracy=0.25))
    journal.record(round_(0, best=True, accuracy=0.25))
    assert rows(tmp_path) == [
        {
            "round": 0,
            "site": "site-1",
            "task": "train",
            "metrics": {"accuracy": 0.25},
            "weight": 2.0,
            "seconds": 0.5,
        },
        {
            "round": 0,
            "site": "global",
            "task": "train",
            "metrics": {"accuracy": 0.25},
            "seconds": 1.0,
            "best": True,
        },
    ]
    journal.close()


def test_rows_of_sites_are_there_before_their_round_ends(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(tmp_path)
        journal.record(site(0))
        assert len(rows(tmp_path)) == 1
        for number in range(1, 10):
            journal.record(site(0, f"site-{number}"))
        assert len(rows(tmp_path)) == 1
        await asyncio.sleep(1)  # of virtual time
        assert len(rows(tmp_path)) == 10
        journal.close()

    simulate(main, seed=1)


def test_rows_held_back_are_written_when_closed(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Journal(tmp_path)
        for number in range(100):
            journal.record(site(0, f"site-{number}"))
        journal.close()
        journal.close()

    asyncio.run(main())
    assert [row["site"] for row in rows(tmp_path)] == [f"site-{n}" for n in range(100)]


def test_a_metric_that_is_no_number_is_null(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.record(round_(0, loss=float("nan"), accuracy=1.0, other=float("inf")))
    journal.close()
    assert rows(tmp_path)[0]["metrics"] == {"loss": None, "accuracy": 1.0, "other": None}


def test_resuming_keeps_the_rounds_before_and_drops_a_row_cut_off(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    for number in range(3):
        first.record(site(number))
        first.record(round_(number))
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 0, "site": "si')
    second = Journal(tmp_path, keep=BeforeRound(2))
    second.record(round_(2, accuracy=0.5))
    second.close()
    assert [(row["round"], row["site"]) for row in rows(tmp_path)] == [
        (0, "site-1"),
        (0, "global"),
        (1, "site-1"),
        (1, "global"),
        (2, "global"),
    ]
    assert sorted(os.listdir(tmp_path)) == ["logs", "metrics.jsonl"]


def test_resuming_keeps_as_many_rows_of_versions_and_of_their_updates_as_counted(
    tmp_path: Path,
) -> None:
    first = Journal(tmp_path)
    told = [site(0, "a"), site(0, "b"), round_(0), site(1, "a"), site(0, "c"), round_(1)]
    for event in told:
        first.record(event)
    evaluated: dict[str, Any] = {"task": "evaluate", "metrics": {}}
    first.record(RunEvent(EventKind.SITE_FINISHED, 2, "a", evaluated))
    first.close()
    Journal(tmp_path, keep=FirstRows(updates=9, versions=9)).close()
    assert len(rows(tmp_path)) == 6, "the last model is evaluated again"
    Journal(tmp_path, keep=FirstRows(updates=3, versions=1)).close()
    assert [(row["round"], row["site"]) for row in rows(tmp_path)] == [
        (0, "a"),
        (0, "b"),
        (0, "global"),
        (1, "a"),
    ]


def test_resuming_before_the_first_row_starts_an_empty_file(tmp_path: Path) -> None:
    Journal(tmp_path, keep=BeforeRound(0)).close()
    assert rows(tmp_path) == []


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    journal = Journal(None)
    journal.record(round_(0))
    journal.close()
    assert os.listdir(tmp_path) == []
    assert len(journal.events) == 1


def test_a_full_disk_is_an_oserror_that_names_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal._rows is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._rows._file._fd)
    os.close(full)
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        journal.record(round_(0))
    assert len(journal.events) == 1
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        journal.close()
    journal.close()


def test_a_follower_sees_every_event_in_order_and_ends_with_the_run() -> None:
    async def main() -> None:
        journal = Journal(None)
        journal.record(round_(0))

        async def follow() -> list[RunEvent]:
            return [event async for event in journal.follow()]

        followers = [asyncio.create_task(follow()) for _ in range(2)]
        await asyncio.sleep(0)
        for number in range(1, 4):
            journal.record(round_(number))
            if number % 2:
                await asyncio.sleep(0)
        journal.record(FINISHED)
        journal.record(RunEvent(EventKind.NOTICE, data={"text": "after"}))
        for follower in followers:
            assert await follower == journal.events[:-1]
        late = await follow()
        assert late == journal.events[:-1]

    asyncio.run(main())


def test_closing_ends_followers_and_a_cancelled_one_harms_nobody() -> None:
    async def main() -> None:
        journal = Journal(None)

        async def follow() -> list[RunEvent]:
            return [event async for event in journal.follow()]

        cancelled, other = asyncio.create_task(follow()), asyncio.create_task(follow())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        journal.record(round_(0))
        await asyncio.sleep(0)
        journal.close()
        assert await other == list(journal.events)

    asyncio.run(main())


def test_a_run_in_one_thread_can_be_followed_from_another() -> None:
    journal = Journal(None)

    async def follow() -> int:
        return len([event async for event in journal.follow()])

    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(asyncio.run(follow())))
    thread.start()
    for number in range(2000):
        journal.record(round_(number))
    journal.record(FINISHED)
    thread.join(30)
    assert counts == [2001]


def test_a_subscriber_that_raises_is_dropped_with_a_notice_and_the_others_go_on() -> None:
    journal = Journal(None)
    seen: list[EventKind] = []
    calls: list[RunEvent] = []

    def broken(event: RunEvent) -> None:
        calls.append(event)
        raise RuntimeError("disk gone")

    journal.subscribe(broken)
    journal.subscribe(lambda event: seen.append(event.kind))
    journal.record(round_(0))
    journal.record(round_(1))
    assert len(calls) == 1
    assert seen == [EventKind.ROUND_FINISHED, EventKind.NOTICE, EventKind.ROUND_FINISHED]
    assert journal.events[1].data["text"] == "broken stopped: RuntimeError: disk gone"
