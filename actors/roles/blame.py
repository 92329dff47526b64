"""Whose fault it is when a workflow raises: the user's own line, or nobody's but ours.

Not here: what scripts and functions raise, which their launchers tell (`covey.actors.jobs`).
"""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from types import FrameType

from .messages import Failure


class WorkflowFailed(Exception):
    """A workflow that is the user's own raised.

    Attributes:
        failure: What, and where.
    """

    def __init__(self, failure: Failure) -> None:
        """Name the error and its text."""
        super().__init__(f"the workflow failed: {failure.kind}: {failure.text}")
        self.failure = failure


def blame(error: Exception) -> Failure | None:
    """The place in the user's own code where an error of a workflow comes from.

    That is the deepest frame in the folder of the first one that is not covey's; None if there
    is no such frame.
    """
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [_folder(frame) for frame, _ in frames if not _is_ours(frame)]
    if not theirs:
        return None
    frame, line = [each for each in frames if _folder(each[0]) == theirs[0]][-1]
    file = frame.f_code.co_filename
    return Failure(
        type(error).__name__,
        str(error),
        file,
        line,
        linecache.getline(file, line).strip(),
        "".join(traceback.format_exception(error)),
    )


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("covey.")


def _folder(frame: FrameType) -> Path:
    return Path(frame.f_code.co_filename).parent
