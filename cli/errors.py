"""What a command tells before it gives up, and the exit codes.

Here: the one error that every command ends with, and the numbers `docs/cli.md` promises. Not
here: the errors of recipes, which commands turn into this one.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says."""

    COMPLETED = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class CommandError(Exception):
    """A command cannot do what it was asked for; the text says what to do.

    Attributes:
        code: Exit code of the command.
    """

    def __init__(self, text: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(text)
        self.code = code
