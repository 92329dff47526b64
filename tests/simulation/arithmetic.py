"""Training by arithmetic: scripts whose updates tell whose they are, and the oracle of their sum.

Here: the model, each site's update, scripts that make them after a while of
virtual time and in drawn trouble, and the final model as plain Python computes
it from the updates that count. Not here: the federation and its faults.

The update of site i in round r adds numbers of its own (powers of two, and one
lane that no other site touches), always the same for the same round: an update
that is lost, counted twice, or of another round changes the model, one that is
trained again does not.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from covey.actors.downloads.blobs import Blob
from covey.actors.jobs.function import FunctionFailed
from covey.actors.jobs.launchers.errors import Fault, ScriptDied, ScriptError
from covey.actors.jobs.launchers.script import WEIGHT_KEY, Outcome
from covey.algorithms.tensors import Layout, Packer
from covey.client.messages import Answer, Metric, Task

#: What goes wrong with a site in a round: its script raises, is killed, or answers
#: with numbers that are not finite, with other tensors, with none, or a wrong weight.
Trouble: TypeAlias = Literal["raises", "dies", "nan", "other", "empty", "weight"]
TROUBLES: Final[tuple[Trouble, ...]] = ("raises", "dies", "nan", "other", "empty", "weight")
#: The kinds that the aggregator refuses when they come in.
REFUSED: Final = frozenset({"other", "empty", "weight"})

SHARED: Final = 3  # lanes that all sites add to
Numbers: TypeAlias = "dict[str, list[float]]"


def beginning(sites: int) -> Numbers:
    """The model of version 0."""
    return {"own": [0.0] * sites, "shared": [1.0] * SHARED, "single": [0.5] * sites}


def increment(site: int, round: int, sites: int) -> Numbers:
    """What a site adds in a round."""
    step = float(2**site * (round + 1))
    own = [step if lane == site else 0.0 for lane in range(sites)]
    return {
        "own": own,
        "shared": [step, -step, 0.25 * step],
        "single": [0.1 * lane for lane in own],
    }


def differs(site: int) -> bool:
    """Whether a site sends a difference instead of a model."""
    return site % 2 == 1


def weight(site: int) -> float:
    """A site's weight in the mean."""
    return 1.0 + site % 3


def layout(sites: int) -> Layout:
    """How the model lies in a blob."""
    return Layout.of(arrays(beginning(sites)))


def arrays(numbers: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Numbers as the arrays they are sent as."""
    return {
        name: np.array(values, np.float32 if name == "single" else np.float64)
        for name, values in numbers.items()
    }


def blob_of(numbers: Mapping[str, Sequence[float]]) -> bytes:
    """The bytes of a model or an update; numbers that are not finite pass."""
    state = arrays(numbers)
    return bytes(Packer(Layout.of(state), finite=False).pack(state))


def oracle(sites: int, rounds: Sequence[Sequence[int]]) -> bytes:
    """The model after `rounds`, each given as the sites whose update counts, in order."""
    model = beginning(sites)
    for number, counted in enumerate(rounds):
        model = {name: _mean(name, old, number, counted, sites) for name, old in model.items()}
    return blob_of(model)


def _mean(
    name: str, old: list[float], round: int, counted: Sequence[int], sites: int
) -> list[float]:
    rounded = _single if name == "single" else float
    lanes: list[float] = []
    for lane, before in enumerate(old):
        total = 0.0
        for site in counted:
            step = rounded(increment(site, round, sites)[name][lane])
            value = before + step if differs(site) else rounded(before + step)
            total += weight(site) * value
        lanes.append(rounded(total / sum(weight(site) for site in counted)))
    return lanes


def _single(value: float) -> float:
    number: float = struct.unpack("f", struct.pack("f", value))[0]
    return number


@dataclass(slots=True)
class Ledger:
    """What really happened at the scripts, kept outside of the federation.

    Attributes:
        issued: How often each (site, task, round) was answered.
        troubles: Troubles that a script was in, by (site, round).
        started: Scripts started.
        cut: Scripts killed at work.
    """

    issued: Counter[tuple[str, str, int]] = field(default_factory=Counter[tuple[str, str, int]])
    troubles: dict[tuple[str, int], Trouble] = field(default_factory=dict[tuple[str, int], Trouble])
    started: int = 0
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Manner:
    """How scripts behave.

    Attributes:
        seed: Durations and troubles are drawn from it, for each site and round.
        sites: All sites' names.
        busy_s: Seconds a task takes, at least and at most.
        slow: Sites that take five times as long.
        trouble: Probability of trouble in a round.
        troubles: The troubles to choose from.
        mortal: Whether a script ends when it is killed, as a process does; a function does not.
        evaluates: Whether it tells tasks apart.
    """

    seed: int
    sites: tuple[str, ...]
    busy_s: tuple[float, float]
    slow: frozenset[str]
    trouble: float
    troubles: tuple[Trouble, ...]
    mortal: bool
    evaluates: bool

    def draw(self, site: str, task: Task) -> Trouble | None:
        """The trouble of a site in a round, the same for every attempt."""
        rng = random.Random(f"trouble/{self.seed}/{site}/{task.round}")
        if task.name != "train" or rng.random() >= self.trouble:
            return None
        return rng.choice(self.troubles)


class ArithmeticScript:
    """A script that reads the model, is busy for a while, and adds its numbers."""

    pid = None

    def __init__(
        self, site: str, manner: Manner, ledger: Ledger, on_metric: Callable[[Metric], None]
    ) -> None:
        self.site = site
        self._manner = manner
        self._ledger = ledger
        self._on_metric = on_metric
        self._killed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ledger.started += 1
        self._rng = random.Random(f"busy/{manner.seed}/{site}/{ledger.started}")

    async def run(self, task: Task) -> Outcome:
        manner = self._manner
        model = _received(task)
        await self._work(manner.busy_s[1] * 5 if self.site in manner.slow else None)
        trouble = manner.draw(self.site, task)
        if trouble is not None:
            self._ledger.troubles[self.site, task.round] = trouble
        if trouble == "raises":
            fault = Fault("ValueError", "drawn", "client.py", 1, "raise ValueError", "")
            raise FunctionFailed(self.site, "", fault)
        if trouble == "dies":
            self.kill()
            raise ScriptDied(self.site, "", None, 9)
        self._ledger.issued[self.site, task.name, task.round] += 1
        return self._answer(task, model, trouble)

    async def _work(self, seconds: float | None) -> None:
        self._on_metric(Metric("begun", 1.0))
        if seconds is None:
            seconds = self._rng.uniform(*self._manner.busy_s)
        if not self._killed.done():
            await asyncio.wait([self._killed], timeout=seconds)
        if self._killed.done():
            self._ledger.cut += 1
            raise ScriptDied(self.site, "", None, 9)
        self._on_metric(Metric("done", 1.0))

    def _answer(self, task: Task, model: bytes, trouble: Trouble | None) -> Outcome:
        blob = self._blob(task, model, trouble) if task.name == "train" else None
        number = self._manner.sites.index(self.site)
        answer = Answer(
            task.name,
            task.round,
            "DIFF" if differs(number) else "FULL",
            blob is not None,
            blob.size if blob is not None else 0,
            {"round": float(task.round)},
            {WEIGHT_KEY: -1.0 if trouble == "weight" else weight(number)},
            self._manner.evaluates,
        )
        return Outcome(answer, blob)

    def _blob(self, task: Task, model: bytes, trouble: Trouble | None) -> Blob | None:
        if trouble == "empty":
            return None
        if trouble == "other":
            return Blob.of_bytes(blob_of({"other": [1.0]}))
        sites = self._manner.sites
        number = sites.index(self.site)
        update = arrays(increment(number, task.round, len(sites)))
        if not differs(number):
            old = Packer(layout(len(sites))).unpack(bytearray(model))
            # As double numbers, rounded once: what a careful script does.
            update = {
                name: np.asarray(old[name] + step.astype(np.float64), step.dtype)
                for name, step in update.items()
            }
        if trouble == "nan":
            update["shared"][1] = np.nan
        return Blob.of_bytes(Packer(layout(len(sites)), finite=False).pack(update))

    async def wait(self) -> ScriptError | None:
        await asyncio.wait([self._killed])
        return None

    async def stop(self, grace_s: float) -> ScriptError | None:
        del grace_s
        self.kill()
        return None

    def kill(self) -> None:
        if self._manner.mortal and not self._killed.done():
            self._killed.set_result(None)


def _received(task: Task) -> bytes:
    """The model, read at once as a script that receives does: the file may be gone later."""
    assert task.model is not None
    return Path(task.model).read_bytes()
