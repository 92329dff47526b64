"""What may go wrong between actors.

One small tree. Each error names the actor it is about and carries its fields,
so that a caller can decide by type and a log line needs no parsing. Errors that
users' handlers raise on purpose are `Rejected`; every other exception of a
handler reaches the asker as `RemoteError`, whether the actor is local or not.
"""

from __future__ import annotations


class ActorError(Exception):
    """Root of all errors of the actor runtime."""


class AskTimeout(ActorError):
    """No reply came before the deadline; whether the message took effect is unknown."""

    def __init__(self, address: str, message: str, timeout_s: float) -> None:
        """Name the actor asked, the message's type and the time allowed."""
        super().__init__(f"{address} did not answer {message} within {timeout_s:g} s")
        self.address = address
        self.message = message
        self.timeout_s = timeout_s


class Stopped(ActorError):
    """The actor has ended, is ending, or never was; the message was not handled."""

    def __init__(self, address: str, reason: str = "stopped") -> None:
        """Name the actor and why it is gone."""
        super().__init__(f"{address} is not running ({reason})")
        self.address = address
        self.reason = reason


class MailboxFull(ActorError):
    """The mailbox is full and refused the message: by its policy REJECT, or to a remote sender."""

    def __init__(self, address: str, capacity: int) -> None:
        """Name the actor and its mailbox's capacity in messages."""
        super().__init__(f"the mailbox of {address} is full ({capacity} messages); try again later")
        self.address = address
        self.capacity = capacity


class Unreachable(ActorError):
    """No link leads to the actor's node, so the message was not sent."""

    def __init__(self, address: str, reason: str = "no link to its node") -> None:
        """Name the actor and what is missing on the way to it."""
        super().__init__(f"{address} cannot be reached: {reason}")
        self.address = address
        self.reason = reason


class RemoteError(ActorError):
    """The actor's handler raised. `__cause__` is the exception itself where the actor is local."""

    def __init__(self, address: str, kind: str, text: str) -> None:
        """Name the actor, the exception's type and its text."""
        super().__init__(f"{address} failed: {kind}: {text}")
        self.address = address
        self.kind = kind
        self.text = text


class Rejected(ActorError):
    """A handler's declared "no". It answers the asker and does not count as a failure."""

    def __init__(self, code: str, text: str = "") -> None:
        """Give a short stable code for programs and a text for people."""
        super().__init__(f"{code}: {text}" if text else code)
        self.code = code
        self.text = text


class ProtocolError(ActorError):
    """A message that its receiver has no handler for, or that breaks the wire's rules."""


def no_record(value: object) -> ProtocolError:
    """The error about something that would have to cross a link and cannot."""
    text = f"{value!r:.80} is no Record and cannot cross a link"
    return ProtocolError(text)


class ActorFailed(ActorError):
    """An actor spent its restart budget and nobody watched it. `__cause__` is the last failure."""

    def __init__(self, address: str, failures: int, last: str) -> None:
        """Name the actor, how often it failed and its last failure."""
        super().__init__(
            f"{address} failed {failures} times, past its restart budget; last: {last}"
        )
        self.address = address
        self.failures = failures


class Interrupted(Exception):
    """A handler let out a cancellation that was not its own: what it awaited was cancelled.

    Counts as the handler's failure; askers see it as the `kind` of a `RemoteError`.
    """

    def __init__(self, address: str) -> None:
        """Name the actor."""
        super().__init__(f"a handler of {address} awaited something that was cancelled")


class Deadlock(Exception):
    """In virtual time, everything waits and nothing is scheduled: real time would hang.

    No `ActorError`: nobody waits for it but the one who runs the loop.
    """

    def __init__(self, time_s: float, tasks: tuple[str, ...]) -> None:
        """Say when, and name each waiting task with its line."""
        waiting = "".join(f"\n  {task}" for task in tasks) or "\n  no task at all"
        super().__init__(f"at {time_s:g} virtual seconds everything waits for nothing:{waiting}")
        self.time_s = time_s
        self.tasks = tasks
