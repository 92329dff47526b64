"""The workflow seam: what happens in which order, as a plain async function.

A workflow is handed the rounds of its job and awaits them; who the sites are,
how tasks reach them and what is kept on disk is the job actor's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias


class Rounds(Protocol):
    """A job as its workflow sees it. Every method raises `QuorumLost` past repair."""

    @property
    def first(self) -> int:
        """The first round to run: 0, or later where a run goes on after a kill."""
        ...

    @property
    def total(self) -> int:
        """The number of rounds."""
        ...

    async def train(self, round: int) -> Mapping[str, float]:
        """Send the current model to all sites, wait for their updates.

        Returns the metrics of the model that was sent, averaged over the sites.
        """
        ...

    async def step(self, round: int) -> None:
        """Fold the round's updates into the next model and make it the current one."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether a judged model was good enough, or none better has come for too long."""
        ...

    def judge(self, round: int, metrics: Mapping[str, float]) -> None:
        """Note how good the model of this round was, by metrics measured on it."""
        ...

    async def evaluate(self, round: int) -> None:
        """Have the current model evaluated by the sites that can do only that, and judge it."""
        ...


Workflow: TypeAlias = Callable[[Rounds], Awaitable[None]]


async def federated_averaging(rounds: Rounds) -> None:
    """Synchronous training (FedAvg and every rule that differs in the aggregation alone).

    1. Send the model to all sites and wait for their updates.
    2. Judge the model by the metrics that came along: they were measured on it.
    3. Aggregate, and begin again until the rounds are over or it is good enough.
    4. Have the last model evaluated, where sites can.
    """
    round = rounds.first
    while round < rounds.total and not rounds.stopped:
        metrics = await rounds.train(round)
        rounds.judge(round, metrics)
        await rounds.step(round)
        round += 1
    await rounds.evaluate(round)
