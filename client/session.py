"""The seam between the Client API and whoever runs the script.

Here: what a session offers, and which one is current in this process. Not here: what it does
(`running.py`). Importing this module imports neither transport nor tensors, so that
`import covey.client` costs next to nothing.

A script's process has one session from before its first line. Where several scripts share a
process (inline), whoever switches between them installs the session of the one that runs.
"""

from __future__ import annotations

from typing import Protocol

from .errors import NotInRun
from .model import FLModel
from .state import ClientState


class Session(Protocol):
    """One script's conversation with its trainer, as the Client API needs it."""

    @property
    def job_id(self) -> str:
        """Id of the job."""
        ...

    @property
    def site(self) -> str:
        """Name of the site."""
        ...

    @property
    def config(self) -> dict[str, object]:
        """The run's settings for scripts, a copy."""
        ...

    @property
    def state(self) -> ClientState:
        """What the client keeps from round to round."""
        ...

    @property
    def task_name(self) -> str:
        """Name of the current task; raises `WrongCall` if there is none."""
        ...

    def asked_for(self, task: str) -> bool:
        """Whether the current task is this one; raises `WrongCall` if there is none."""
        ...

    def init(self) -> None:
        """Say that the script is ready; idempotent."""
        ...

    def is_running(self) -> bool:
        """Wait for the next task or the end."""
        ...

    def receive(self, timeout: float | None) -> FLModel | None:
        """The model of the current or next task."""
        ...

    def send(self, model: FLModel, clear_cache: bool) -> None:
        """Answer the current task."""
        ...

    def log(self, key: str, value: object, kind: str, step: object) -> None:
        """Stream a metric."""
        ...

    def clear(self) -> None:
        """Drop the references to what was received."""
        ...

    def shutdown(self) -> None:
        """Take no more tasks."""
        ...


_current: Session | None = None


def current(call: str) -> Session:
    """The session of the script that runs now.

    Args:
        call: What the user called, for the error.

    Raises:
        NotInRun: If no recipe runs this script.
    """
    if _current is None:
        raise NotInRun(call)
    return _current


def install(session: Session | None) -> Session | None:
    """Make a session the current one, or none; returns the one before."""
    global _current
    before, _current = _current, session
    return before
