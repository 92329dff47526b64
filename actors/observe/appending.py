"""A file that only grows: what is added is held back until it is flushed.

A system call for each line would cost as much as making the line.
"""

from __future__ import annotations

import os
from pathlib import Path


class Appending:
    """Appends bytes to a file.

    Args:
        path: The file, in a folder that exists; made if it is not there.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._held = bytearray()
        #: The file's size once all that was added is written.
        self.size = os.fstat(self._fd).st_size

    def add(self, data: bytes) -> None:
        """Hold `data` back for the next `flush`; dropped if the file is closed."""
        if self._fd >= 0:
            self._held += data
            self.size += len(data)

    def flush(self) -> None:
        """Write what is held back.

        Raises:
            OSError: The file refused; what it has not taken is held back further.
        """
        while self._held:
            try:
                written = os.write(self._fd, self._held)
            except OSError as error:
                error.filename = str(self.path)
                raise
            del self._held[:written]

    def read(self, start: int, end: int) -> bytes:
        """What stands between two positions, all of it written."""
        if self._fd >= 0:
            return os.pread(self._fd, end - start, start)
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def close(self) -> None:
        """Write what is held back, and close; idempotent.

        Raises:
            OSError: The file refused; it is closed all the same.
        """
        if self._fd < 0:
            return
        try:
            self.flush()
        finally:
            self._held.clear()
            os.close(self._fd)
            self._fd = -1
