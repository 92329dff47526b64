"""Run folders as runs leave them, made in a moment: their files come from the real journal."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.journal import Journal

FAILURE: dict[str, Any] = {
    "kind": "ValueError",
    "text": "bad batch",
    "file": "/home/ann/job/client.py",
    "line": 41,
    "source_line": 'raise ValueError("bad batch")',
    "traceback": "Traceback (most recent call last):\n  ...\nValueError: bad batch\n",
    "fatal": True,
}


class Folder:
    """A run's folder, told event by event."""

    def __init__(self, path: Path, name: str = "digits", rounds: int = 10, sites: int = 4) -> None:
        (path / "logs").mkdir(parents=True)
        self.path = path
        self.name = name
        self.rounds = rounds
        self.sites = [f"site-{number + 1}" for number in range(sites)]
        self.clock = 1_800_000_000.0
        self.random = random.Random(7)
        self.journal = Journal(path)
        config = {
            "id": path.name,
            "seed": 7,
            "created": "2026-11-24T10:00:00+00:00",
            "manifest": {"recipe": "FedAvgRecipe", "settings": {"key_metric": "accuracy"}},
            "versions": {"covey": "0.1.0"},
        }
        (path / "config.json").write_text(json.dumps(config))

    def tell(
        self, what: EventKind, round_: int | None = None, who: str | None = None, /, **data: Any
    ) -> None:
        """Record an event, a moment after the one before."""
        self.clock += 0.001
        self.journal.record(RunEvent(what, round_, who, data, self.clock))

    def start(self, resumed: int | None = None, **more: Any) -> None:
        self.tell(
            EventKind.RUN_STARTED,
            name=self.name,
            rounds=self.rounds,
            sites=len(self.sites),
            resumed_round=resumed,
            **more,
        )

    def begin(self, number: int, task: str = "train") -> None:
        self.tell(EventKind.ROUND_STARTED, number, sites=len(self.sites), task=task)

    def answer(self, number: int, site: str, metrics: dict[str, float], **more: Any) -> None:
        seconds = more.pop("seconds", self.random.lognormvariate(-1, 0.4))
        told = {"task": "train", "weight": 100.0, "bytes": 1000} | more
        self.tell(EventKind.SITE_FINISHED, number, site, metrics=metrics, seconds=seconds, **told)

    def settle(self, number: int, metrics: dict[str, float], **more: Any) -> None:
        told = {"task": "train", "ok": len(self.sites), "failed": 0, "best": True} | more
        size = 2000 * len(self.sites)
        self.tell(
            EventKind.ROUND_FINISHED, number, metrics=metrics, seconds=0.5, bytes=size, **told
        )

    def fail(self, number: int, site: str, **changes: Any) -> None:
        self.tell(EventKind.SITE_FAILED, number, site, **(FAILURE | changes))

    def end(self, status: str = "completed", error: str = "", **more: Any) -> None:
        """Tell the end and write the summary."""
        best = {"key_metric": "accuracy", "best_round": self.rounds - 1, "best_value": 0.97}
        rest = {"rounds": self.rounds, "stopped_by": "", **best}
        self.tell(EventKind.RUN_FINISHED, None, None, status=status, error=error, **rest, **more)
        self.journal.close()
        own = {"id": self.path.name, "name": self.name, "seed": 7, "seconds": 12.34}
        summary = {"status": status, "error": error, **rest, **own}
        (self.path / "summary.json").write_text(json.dumps(summary))


def accuracy_of(number: int, site: int, rounds: int) -> float:
    """A curve that rises, a little lower at each further site."""
    return (1 - math.exp(-4 * number / rounds)) * (0.98 - 0.2 * site / (site + 5))


def trained(path: Path, rounds: int = 10, sites: int = 4, skip: Sequence[int] = ()) -> Folder:
    """A run that trained to its last round and has not been told to be over."""
    run = Folder(path, rounds=rounds, sites=sites)
    run.start()
    for number in range(rounds):
        run.begin(number)
        run.clock += 0.4
        reached: list[float] = []
        for index, site in enumerate(run.sites):
            if number in skip and index == 1:
                continue
            value = accuracy_of(number, index, rounds) + run.random.gauss(0, 0.01)
            reached.append(value)
            run.answer(number, site, {"accuracy": value, "loss": 2.3 * (1.02 - value)})
            run.clock += 0.3 / sites * run.random.random()
        mean = sum(reached) / len(reached)
        run.settle(number, {"accuracy": mean, "loss": 2.3 * (1.02 - mean)})
        run.clock += 0.08
    return run


def buffered(path: Path, versions: int = 60, sites: int = 50) -> Folder:
    """A run without rounds: fast sites answer more often, slow ones with old models."""
    run = Folder(path, name="buffered", rounds=versions, sites=sites)
    run.start()
    for number in range(versions):
        for _ in range(5):
            index = min(run.random.randrange(sites), run.random.randrange(sites))
            value = accuracy_of(number, index, versions)
            staleness = run.random.randrange(1 + index // 6)
            more: dict[str, Any] = {"staleness": staleness, "virtual_s": 0.5 + index / 10}
            run.answer(number, run.sites[index], {"accuracy": value}, **more)
        told = {"staleness": 1.0, "virtual_s": 0.37 * number}
        run.settle(number, {"accuracy": accuracy_of(number, 10, versions)}, **told)
    return run
