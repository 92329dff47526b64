"""One round's book-keeping: who was asked, who has answered, whether it can still succeed.

Pure decisions, no clock and no waiting: the job actor feeds it what happens
and asks it whether the round is settled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from covey.algorithms import mean_metrics

from ..downloads.blobs import BlobRef
from .messages import Failure, Update


@dataclass(slots=True)
class Round:
    """A round at work.

    Attributes:
        task: What the sites were asked for.
        number: The round, from 0.
        minimum: Results without which it fails.
        waiting: Sites that have not answered, in the federation's order.
        done: Updates by site.
        failed: Failures by site.
        model: What is sent and told to nobody but who asked; None: the current model, for all
            to know.
    """

    task: str
    number: int
    minimum: int
    waiting: dict[str, None]
    done: dict[str, Update] = field(default_factory=dict[str, Update])
    failed: dict[str, Failure] = field(default_factory=dict[str, Failure])
    model: BlobRef | None = None

    @classmethod
    def of(cls, task: str, number: int, minimum: int, sites: Iterable[str]) -> Round:
        """A round that has just begun."""
        return cls(task, number, minimum, dict.fromkeys(sites))

    def finish(self, site: str, update: Update) -> None:
        """Take a site's update."""
        self.waiting.pop(site, None)
        self.failed.pop(site, None)
        self.done[site] = update

    def fail(self, site: str, failure: Failure) -> bool:
        """Take a site's failure; False if the site had answered already."""
        if site not in self.waiting:
            return False
        del self.waiting[site]
        self.failed[site] = failure
        return True

    def spoil(self, site: str, failure: Failure) -> None:
        """An update that was taken has turned out to be unfit."""
        self.done.pop(site, None)
        self.failed[site] = failure

    def reopen(self, site: str) -> None:
        """Wait again for a site that has come back."""
        self.failed.pop(site, None)
        self.waiting[site] = None

    @property
    def hopeless(self) -> bool:
        """Whether too few sites are left to reach the minimum."""
        return len(self.done) + len(self.waiting) < self.minimum

    @property
    def settled(self) -> bool:
        """Whether nothing that may still come changes the outcome."""
        return not self.waiting or self.hopeless

    @property
    def met(self) -> bool:
        """Whether enough sites have answered."""
        return len(self.done) >= max(1, self.minimum)

    def metrics(self) -> dict[str, float]:
        """The weighted mean of each metric over the sites that gave it, in order of their names."""
        reports = ((self.done[site].metrics, self.done[site].weight) for site in sorted(self.done))
        return mean_metrics(reports)
