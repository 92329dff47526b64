"""What can go wrong when a run is observed.

Here: the errors of this package. Not here: a full disk, which stays the `OSError` it is.
"""

from __future__ import annotations


class ObserveError(Exception):
    """Root of the errors of this package."""


class TrackingUnavailable(ObserveError):
    """A tracker needs a package that cannot be imported.

    Attributes:
        tracker: The tracker asked for.
        package: The package that brings what it needs.
        why: What the import said.
    """

    def __init__(self, tracker: str, package: str, why: str) -> None:
        self.tracker = tracker
        self.package = package
        self.why = why
        super().__init__(
            f"{tracker} tracking is not available: {why}; install it with: pip install {package}"
        )
