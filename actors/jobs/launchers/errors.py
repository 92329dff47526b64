"""What can go wrong with a training script and with starting one.

Here: the exceptions of this package, each with what a caller needs to decide and to tell the
user. Not here: errors inside the script's process (`covey.client.errors`).
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from covey.client.messages import Failed


class LauncherError(Exception):
    """A script could not be started, or the process that starts them is gone.

    Attributes:
        what: What failed.
        why: The cause and what to do.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what = what
        self.why = why

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


class ScriptError(Exception):
    """Root of the ways a script can end a task without answering it.

    Attributes:
        site: Site whose script it is.
        log: The file that has the script's output.
    """

    def __init__(self, site: str, log: str) -> None:
        super().__init__(site, log)
        self.site = site
        self.log = log


@dataclass(frozen=True, slots=True)
class Fault:
    """An exception in a script, as data.

    Attributes:
        kind: Name of the exception's class; "SystemExit" for `sys.exit(n)` with n not 0.
        text: What it says.
        file: File of the deepest frame of the user's own, "" if there is none.
        line: Line in that file.
        source_line: The source of that line.
        traceback: The whole traceback.
    """

    kind: str
    text: str
    file: str
    line: int
    source_line: str
    traceback: str

    @classmethod
    def of(cls, failed: Failed) -> Fault:
        """The exception that a script reports."""
        return cls(
            kind=failed.kind,
            text=failed.text,
            file=failed.file,
            line=failed.line,
            source_line=failed.source_line,
            traceback=failed.traceback,
        )


class ScriptFailed(ScriptError):
    """The script raised. The text ends with the user's own file, line and source.

    Attributes:
        fault: The exception in the script.
    """

    def __init__(self, site: str, log: str, fault: Fault) -> None:
        super().__init__(site, log)
        self.fault = fault

    def __str__(self) -> str:
        fault = self.fault
        said = f"{fault.kind}: {fault.text}" if fault.text else fault.kind
        if fault.kind == "SystemExit":  # what it had to say, it has printed
            said += f" (its output is in {self.log})"
        where = f'\n  File "{fault.file}", line {fault.line}' if fault.file else ""
        source = f"\n    {fault.source_line}" if fault.source_line else ""
        return f"the script of {self.site} raised {said}{where}{source}"


class ScriptDied(ScriptError):
    """The script's process ended without a word: a signal, `os._exit`, a crash.

    Attributes:
        exit_code: Its exit code, None if a signal ended it or the code is not known.
        signal: Number of the signal that ended it, None if there was none.
    """

    def __init__(self, site: str, log: str, exit_code: int | None, signal: int | None) -> None:
        super().__init__(site, log)
        self.exit_code = exit_code
        self.signal = signal

    @property
    def cause(self) -> str:
        """The end of the process in words."""
        if self.signal is not None:
            return f"was killed by {_signal_name(self.signal)}"
        if self.exit_code is not None:
            return f"left by os._exit({self.exit_code}) or crashed with that code"
        return "is gone"

    def __str__(self) -> str:
        return f"the process of {self.site} {self.cause}; its output is in {self.log}"


class ScriptEnded(ScriptError):
    """The script ran to its end, by itself, while a task was waiting for its answer."""

    def __str__(self) -> str:
        return (
            f"the script of {self.site} ended without answering its task; does it loop "
            f"`while flare.is_running()` and call `flare.send`? Its output is in {self.log}"
        )


class BadAnswer(ScriptError):
    """What came from the script's process breaks the rules between it and its trainer.

    Attributes:
        why: The rule that was broken.
    """

    def __init__(self, site: str, log: str, why: str) -> None:
        super().__init__(site, log)
        self.why = why

    def __str__(self) -> str:
        return f"the process of {self.site} sent a bad answer: {self.why}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
