"""Versions: what is known of models that sites are still working from.

Pure decisions. In asynchronous training several versions are at work at once. What a site
measured on the model it was given says how good that version is, so a version is judged
when the last site that was given it has answered or is given up. Until then its file stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from covey.algorithms import mean_metrics


@dataclass(slots=True)
class Version:
    """One version at work.

    Attributes:
        number: The version.
        began: When it was made, on the clock of the job.
        time: Virtual seconds of training until then, None in real time.
        given: How many sites have it and have not answered.
        answered: How many have answered with an update that counts.
        failed: How many were given up.
        staleness: Sum of the stalenesses of their updates.
        superseded: Whether a newer one has taken its place: nobody is given it any more.
        reports: Metrics and weight by site, as measured on it.
    """

    number: int
    began: float = 0.0
    time: float | None = None
    given: int = 0
    answered: int = 0
    failed: int = 0
    staleness: int = 0
    superseded: bool = False
    reports: list[tuple[str, Mapping[str, float], float]] = field(
        default_factory=list[tuple[str, Mapping[str, float], float]]
    )

    @property
    def complete(self) -> bool:
        """Whether nothing more will be said of it."""
        return self.superseded and not self.given

    def metrics(self) -> dict[str, float]:
        """The weighted mean of each metric over the sites that gave it, by name of site."""
        return mean_metrics(
            (metrics, weight) for _, metrics, weight in sorted(self.reports, key=_site)
        )


def _site(report: tuple[str, Mapping[str, float], float]) -> str:
    return report[0]


class Versions:
    """The versions at work, oldest first."""

    def __init__(self, first: Version) -> None:
        """Begin with version `first` as the newest."""
        self._at_work: dict[int, Version] = {first.number: first}
        self._newest = first.number

    @property
    def numbers(self) -> Iterable[int]:
        """Those whose files are needed."""
        return self._at_work.keys()

    def advance(self, version: Version) -> Version | None:
        """A newer version is there; returns the one before if it is complete thereby."""
        before = self._at_work[self._newest]
        before.superseded = True
        self._at_work[version.number] = version
        self._newest = version.number
        return self._if_complete(before)

    def give(self, version: int) -> None:
        """A site has been given a version."""
        self._at_work[version].given += 1

    def answer(
        self,
        version: int,
        site: str,
        metrics: Mapping[str, float],
        weight: float,
        staleness: int = 0,
    ) -> Version | None:
        """A site has answered with an update; returns the version if it is complete thereby."""
        found = self._at_work[version]
        found.given -= 1
        found.answered += 1
        found.staleness += staleness
        if metrics:
            found.reports.append((site, metrics, weight))
        return self._if_complete(found)

    def give_up(self, version: int) -> Version | None:
        """Nothing comes of a task; returns the version if it is complete thereby."""
        found = self._at_work[version]
        found.given -= 1
        found.failed += 1
        return self._if_complete(found)

    def close(self) -> list[Version]:
        """Training is over: all versions that are left, oldest first, the newest included."""
        left = list(self._at_work.values())
        self._at_work.clear()
        return left

    def _if_complete(self, version: Version) -> Version | None:
        if not version.complete:
            return None
        del self._at_work[version.number]
        return version
