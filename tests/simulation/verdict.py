"""What must hold of a faulty federation's run, judged from outside of it.

Here: the reading of an account, and the list of its violations. Not here: how it
came about (`federation.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from covey.actors.observe.events import EventKind, RunEvent

from .arithmetic import REFUSED, oracle
from .federation import Account


@dataclass(slots=True)
class Reading:
    """The events of a run, sorted out.

    Attributes:
        accepted: How often each (task, round, site) was taken.
        spoiled: (round, site) of updates that were taken and then left out.
        failed: (round, site, kind) of all failures.
        end: The last event.
    """

    accepted: Counter[tuple[str, int, str]] = field(default_factory=Counter[tuple[str, int, str]])
    spoiled: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    failed: list[tuple[int | None, str, str]] = field(
        default_factory=list[tuple[int | None, str, str]]
    )
    end: RunEvent | None = None

    @classmethod
    def of(cls, events: list[RunEvent]) -> Reading:
        """Read events in their order."""
        reading = cls()
        for event in events:
            reading._read(event)
        return reading

    def _read(self, event: RunEvent) -> None:
        round, site = event.round, event.site or ""
        if event.kind is EventKind.SITE_FINISHED and round is not None:
            self.accepted[event.data["task"], round, site] += 1
        elif event.kind is EventKind.SITE_FAILED:
            kind: str = event.data["kind"]
            self.failed.append((round, site, kind))
            if kind == "BadUpdate" and round is not None and self.took(round, site):
                self.spoiled.add((round, site))
        elif event.kind is EventKind.RUN_FINISHED:
            self.end = event

    def took(self, round: int, site: str) -> bool:
        """Whether a site's update was taken."""
        return bool(self.accepted["train", round, site])


def violations(account: Account) -> list[str]:
    """Everything that is wrong with a run; empty if nothing is."""
    reading = Reading.of(account.events)
    found = [f"still there: {what}" for what in account.left]
    found += [f"the job crashed: {detail}" for detail in account.crashed]
    found += [f"counted {n} times: {key}" for key, n in reading.accepted.items() if n != 1]
    found += _made_up(account, reading)
    found += _unjust(account, reading)
    end = reading.end
    if end is None:
        return [*found, "the job has not ended"]
    found += _untrue_status(account, reading, end)
    if account.model != oracle(len(account.scenario.sites), counted(account, reading, end)):
        found.append("the model is not that of the updates that count")
    return found


def counted(account: Account, reading: Reading, end: RunEvent) -> list[list[int]]:
    """The sites whose update counts, for each round that was stepped."""
    sites = account.scenario.sites
    return [
        [
            number
            for number, site in enumerate(sites)
            if reading.took(round, site) and (round, site) not in reading.spoiled
        ]
        for round in range(end.data["rounds"])
    ]


def _made_up(account: Account, reading: Reading) -> Iterator[str]:
    """Updates that no script has made, or that had to be refused or left out."""
    troubles = account.ledger.troubles
    for task, round, site in reading.accepted:
        if not account.ledger.issued[site, task, round]:
            yield f"{site} never made the update of round {round} that was taken"
        trouble = troubles.get((site, round))
        if task == "train" and trouble in REFUSED:
            yield f"{site}'s unfit update ({trouble}) of round {round} was taken"
    for round, site in reading.spoiled:
        if not _may_spoil(account, round, site):
            yield f"{site}'s update of round {round} was taken and left out for no reason"


def _unjust(account: Account, reading: Reading) -> Iterator[str]:
    """Failures of sites that nothing had struck."""
    for round, site, kind in reading.failed:
        if site in account.harmed or (site, round) in account.ledger.troubles:
            continue
        if kind == "DeadlinePassed" and account.scenario.deadline_s is not None:
            continue
        yield f"{site} failed in round {round} for no reason: {kind}"


def _untrue_status(account: Account, reading: Reading, end: RunEvent) -> Iterator[str]:
    scenario, status, rounds = account.scenario, end.data["status"], end.data["rounds"]
    enough = max(1, scenario.minimum)
    had = [len(sites) for sites in counted(account, reading, end)]
    if "internal" in end.data["error"]:
        yield end.data["error"]
    if any(count < enough for count in had):
        yield f"rounds were stepped with {had} updates where {enough} are needed"
    if status == "completed":
        if rounds != scenario.rounds:
            yield f"completed after {rounds} of {scenario.rounds} rounds"
    elif status == "failed":
        yield from _failed_for_nothing(account, reading, end, enough)
    elif status != "aborted" or not account.aborted:
        yield f"ended as {status}"
    if scenario.calm and had != [len(scenario.sites)] * scenario.rounds:
        yield f"updates went missing though every link came back: {had}, {status}"


def _failed_for_nothing(
    account: Account, reading: Reading, end: RunEvent, enough: int
) -> Iterator[str]:
    round: int = end.data["rounds"]
    good = [
        site
        for site in account.scenario.sites
        if reading.took(round, site) and (round, site) not in reading.spoiled
    ]
    if "needs" not in end.data["error"]:  # the aggregator had nothing left: nobody was named
        good = [site for site in good if not _may_spoil(account, round, site)]
    if len(good) >= enough:
        yield f"failed in round {round} with {len(good)} updates where {enough} are enough"


def _may_spoil(account: Account, round: int, site: str) -> bool:
    """Whether an update that was taken may turn out to be of no use."""
    return account.ledger.troubles.get((site, round)) == "nan" or site in account.harmed
