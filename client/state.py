"""What a client keeps from one round to the next, so that a resumed run finds it again.

Here: tensors in a file for each round. Not here: what they are (`scaffold.py`), which folder (the
run says).

A round that is done again must begin with what the round before it left, not with what it left
itself when it was cut off: so a round reads the newest file of the rounds before it, and a file
of its own or of a later round is of a round that did not count.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import WrongCall


class ClientState:
    """The state of one client.

    Args:
        folder: Where its files are; made when something is saved. None: this client keeps
            nothing, and says so when it is asked to.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, round: int) -> dict[str, Any] | None:
        """What was saved in the last round before this one; None if nothing was.

        The tensors may be changed; the file does not change with them. Files of other rounds
        are removed.

        Raises:
            OSError: The disk refused.
        """
        from covey.algorithms.tensors import Packer, map_private, read_layout

        found = self._rounds()
        before = [number for number in found if number < round]
        latest = max(before, default=None)
        for number in found:
            if number != latest:
                with suppress(FileNotFoundError):
                    self._path(number).unlink()
        if latest is None:
            return None
        path = self._path(latest)
        return Packer(read_layout(path)).unpack(map_private(path))

    def save(self, round: int, tensors: Mapping[str, Any]) -> None:
        """Keep tensors for the rounds after this one, in place of what was saved in it before.

        Raises:
            OSError: The disk refused.
        """
        from covey.algorithms.tensors import Layout, Packer

        path = self._path(round)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            Packer(Layout.of(tensors), finite=False).write(tensors, fd)
        finally:
            os.close(fd)
        partial.replace(path)

    def _path(self, round: int) -> Path:
        if self._folder is None:
            raise WrongCall("Scaffold", "this run keeps nothing for its clients")
        return self._folder / f"round-{round}.safetensors"

    def _rounds(self) -> list[int]:
        """Rounds of which there is a file."""
        folder = self._path(0).parent
        if not folder.is_dir():
            return []
        names = (path.name for path in folder.glob("round-*.safetensors"))
        return [int(name.removeprefix("round-").partition(".")[0]) for name in names]
