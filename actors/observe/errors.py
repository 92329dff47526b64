"""What can go wrong when a run is observed.

Here: the errors of this package. Not here: a full disk, which stays the `OSError` it is.
"""

from __future__ import annotations

from pathlib import Path


class ObserveError(Exception):
    """Root of the errors of this package."""


class TrackingUnavailable(ObserveError):
    """A tracker needs a package that cannot be imported.

    Attributes:
        tracker: The tracker asked for.
        package: The package, or covey's extra, that brings what it needs.
        why: What the import said.
    """

    def __init__(self, tracker: str, package: str, why: str) -> None:
        self.tracker = tracker
        self.package = package
        self.why = why
        quoted = f"'{package}'" if "[" in package else package  # some shells expand brackets
        super().__init__(
            f"{tracker} tracking is not available: {why}; install it with: pip install {quoted}"
        )


class TrackingFailed(ObserveError):
    """The process that keeps a run's curves cannot go on; the run itself is not touched.

    Attributes:
        tracker: The tracker it works for.
        why: What it said last.
        log: Where more stands.
    """

    def __init__(self, tracker: str, why: str, log: Path) -> None:
        self.tracker = tracker
        self.why = why
        self.log = log
        super().__init__(f"{why}; see {log}")
