"""The workflow seam: what happens in which order, as a plain async function.

Here: what a workflow is handed, and the workflows of the recipes. Not here: who the sites are,
how tasks reach them and what is kept on disk, which is the job actor's business.

A workflow awaits one thing after the other and keeps nothing itself: a run that was cut off goes
on by calling it again, with `first` the first round that is not through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias

from covey.algorithms.cyclic import site_of_turn


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

    @property
    def sites(self) -> Sequence[str]:
        """Who takes part, in the federation's order; also those that are out by now."""
        ...

    @property
    def seed(self) -> int:
        """The run's seed, for what is drawn by lot; see `covey.algorithms.derive`."""
        ...

    async def train(self, round: int, sites: Sequence[str] | None = None) -> Mapping[str, float]:
        """Send the current model to sites and wait for their updates.

        Args:
            round: The round's number.
            sites: Who trains, of whom all or `min_clients` must answer; None: all that can, or
                a cohort of them.

        Returns the metrics of the model that was sent, averaged over the sites.
        """
        ...

    async def step(self, round: int) -> None:
        """Fold the round's updates into the next model and make it the current one.

        It is kept: a run that is cut off from now on goes on with the round after this one.
        """
        ...

    @property
    def stopped(self) -> bool:
        """Whether a judged model was good enough, or none better has come for too long."""
        ...

    def judge(self, round: int, metrics: Mapping[str, float]) -> None:
        """Note how good the model of this round was, by metrics measured on it."""
        ...

    async def evaluate(self, round: int, sites: Sequence[str] | None = None) -> Mapping[str, float]:
        """Have the current model evaluated, and judge it.

        Args:
            round: The model's number.
            sites: Who evaluates, of whom all or `min_clients` must answer; None: those that
                have shown that they can, and nobody must.

        Returns its metrics, averaged over the sites.
        """
        ...

    @property
    def models(self) -> Sequence[str]:
        """What `measure` can measure now: "global" (the current model), "best", and sites' own.

        A site's own model is the last that it sent; it goes by the site's name, and is there if
        the run keeps them.
        """
        ...

    async def measure(
        self, model: str, sites: Sequence[str] | None = None
    ) -> Mapping[str, Mapping[str, float]]:
        """Have one of `models` evaluated, for whoever asks: nothing is judged or recorded.

        Args:
            model: Its name.
            sites: Who evaluates; None: those that have shown that they can.

        Returns the metrics of each site that answered; a site that fails is told.

        Raises:
            ValueError: There is no such model now.
        """
        ...

    def notice(self, text: str) -> None:
        """Tell something to who follows the run."""
        ...

    def save(self, name: str, data: Any) -> None:
        """Write data as a JSON file of that name into the run's folder; infinity and NaN as null.

        Raises `OSError` as the disk does.
        """
        ...


Workflow: TypeAlias = Callable[[Rounds], Awaitable[None]]

#: The file of `cross_site_evaluation`: {model: {site: {metric: value}}}.
CROSS_SITE: Final = "cross_site.json"


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


async def cyclic(rounds: Rounds, order: Literal["fixed", "random"] = "fixed") -> None:
    """Cyclic weight transfer: one site after the other; a round is one site's turn.

    1. Send the model to the site whose turn it is and wait for its update.
    2. Judge the model by the metrics that came along: that site measured them.
    3. Its update is the next model. The turn goes to the next site, until all turns are over.
    4. Have the last model evaluated, where sites can.
    """
    turn = rounds.first
    while turn < rounds.total and not rounds.stopped:
        site = site_of_turn(turn, rounds.sites, rounds.seed, order)
        metrics = await rounds.train(turn, [site])
        rounds.judge(turn, metrics)
        await rounds.step(turn)
        turn += 1
    await rounds.evaluate(turn)


async def evaluation(rounds: Rounds) -> None:
    """Have the initial model evaluated by all sites, and train nothing."""
    await rounds.evaluate(rounds.first, rounds.sites)


async def cross_site_evaluation(rounds: Rounds, training: Workflow, all_can: bool = False) -> None:
    """Cross-site evaluation: after training, every model is measured at every site.

    1. Train.
    2. Have each site that can evaluate measure the last global model, the best one, and the last
       model of each site's own.
    3. Save the matrix: metrics by model and site.

    Sites that have not shown yet that they can evaluate are asked too if `all_can`.
    """
    await training(rounds)
    sites = rounds.sites if all_can else None
    matrix = {model: await rounds.measure(model, sites) for model in rounds.models}
    if not any(matrix.values()):
        rounds.notice(
            "cross-site evaluation: no client has measured anything; scripts must tell tasks "
            "apart by is_evaluate()"
        )
    rounds.save(CROSS_SITE, matrix)
