"""Blobs: read-only regions of bytes in safetensors layout, and who holds them.

Here: taking bytes, a file or a sealed memory file as a blob, and the table from RIDs to blobs.
Not here: what the tensors inside are (`covey.algorithms.tensors`), moving blobs between nodes.

A blob from a script is a memory file sealed by its writer. The seals are checked before it is
mapped: without them the writer could change or shorten the file while it is being read, and a
shortened mapping kills the reader with SIGBUS.
"""

from __future__ import annotations

import mmap
import os
import secrets
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NewType

from covey.transport import Record

from .errors import BadBlob, UnknownBlob

#: The right to read one blob: 32 random bytes, so that it cannot be guessed.
Rid = NewType("Rid", bytes)

RID_BYTES: Final = 32
_DRAWN: Final = 64

#: Linux' numbers of fcntl(F_GET_SEALS) and of F_SEAL_SEAL | SHRINK | GROW | WRITE; `fcntl` has
#: them from Python 3.8 on Linux only, and type checkers on no other system.
_F_GET_SEALS: Final = 1034
_ALL_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8


@dataclass(frozen=True, slots=True)
class BlobRef(Record, id=300):
    """A blob as it is named in messages.

    Attributes:
        rid: Its RID.
        size: Its size in bytes.
    """

    rid: bytes
    size: int


class Blob:
    """One read-only region of bytes. Made by `of_bytes`, `of_file` or `of_fd`.

    A blob is a context manager that closes itself. Views taken of `buffer` stay valid after
    `close`: the memory is given back with the last of them.

    Attributes:
        bound: No float in it has a larger magnitude, as whoever made the bytes here has seen;
            None if nobody has looked. It never comes from another process.
    """

    __slots__ = ("_map", "_path", "_size", "_view", "bound")

    def __init__(self, view: memoryview, region: mmap.mmap | None, path: Path | None) -> None:
        self._view: memoryview | None = view
        self._map = region
        self._path = path
        self._size = view.nbytes
        self.bound: float | None = None

    @classmethod
    def of_bytes(cls, data: bytes | bytearray | memoryview, bound: float | None = None) -> Blob:
        """Take bytes in memory, without a copy; whoever made them must not change them."""
        blob = cls(memoryview(data).toreadonly().cast("B"), None, None)
        blob.bound = bound
        return blob

    @classmethod
    def of_file(cls, path: Path) -> Blob:
        """Map a file. It may be renamed or unlinked, but must not be written to, while open.

        Raises:
            BadBlob: If it cannot be opened or is not a regular file.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BadBlob(str(path), error.strerror or str(error)) from error
        try:
            return cls._map_fd(fd, str(path), path)
        finally:
            os.close(fd)

    @classmethod
    def of_fd(cls, fd: int, size: int | None = None) -> Blob:
        """Take over a memory file that another process wrote and sealed; closes `fd` always.

        Where the system has no sealed memory files, the content is copied instead.

        Args:
            fd: The descriptor.
            size: Size in bytes that the writer gave, checked if not None.

        Raises:
            BadBlob: If it is not sealed against every change, or has another size.
        """
        source = f"descriptor {fd}"
        try:
            found = os.fstat(fd).st_size
            if size is not None and found != size:
                raise BadBlob(source, f"it has {found} bytes, {size} were announced")
            if sys.platform != "linux":
                return cls.of_bytes(_read_whole(fd, found))
            _check_seals(fd, source)
            return cls._map_fd(fd, source, None)
        finally:
            os.close(fd)

    @classmethod
    def _map_fd(cls, fd: int, source: str, path: Path | None) -> Blob:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BadBlob(source, "it is not a regular file")
        if status.st_size == 0:  # mmap refuses to map nothing
            return cls(memoryview(b""), None, path)
        region = mmap.mmap(fd, status.st_size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        return cls(memoryview(region), region, path)

    @property
    def buffer(self) -> memoryview:
        """The bytes, read-only.

        Raises:
            BadBlob: If the blob is closed.
        """
        if self._view is None:
            raise BadBlob(repr(self), "it is closed")
        return self._view

    @property
    def size(self) -> int:
        """Size in bytes, also after `close`."""
        return self._size

    @property
    def path(self) -> Path | None:
        """The file it was opened from, None if it has no name."""
        return self._path

    def close(self) -> None:
        """Give the memory back as soon as no view uses it; idempotent."""
        view, self._view = self._view, None
        region, self._map = self._map, None
        # BufferError: somebody still has a view; the last one unmaps.
        with suppress(BufferError):
            if view is not None:
                view.release()
            if region is not None:
                region.close()

    def __enter__(self) -> Blob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._view is None else "open"
        name = f" {self._path}" if self._path is not None else ""
        return f"<Blob{name} {self._size} bytes, {state}>"


@dataclass(frozen=True, slots=True)
class BlobsStatistics:
    """Counts of one table of blobs.

    Attributes:
        held: Blobs registered now.
        held_bytes: Their sizes together.
        registered: Blobs ever registered.
        released: Blobs ever released.
    """

    held: int
    held_bytes: int
    registered: int
    released: int


class Blobs:
    """The blobs that one node holds for others, by RID. The table owns what it holds."""

    def __init__(self) -> None:
        self._held: dict[Rid, Blob] = {}
        self._registered = 0
        self._rids: list[Rid] = []

    def register(self, blob: Blob) -> Rid:
        """Hold a blob, and close it when it is released; returns its new RID."""
        try:
            rid = self._rids.pop()  # in one step: versions are registered by threads, too
        except IndexError:
            # Many at once: a system call for each would cost as much as all the rest.
            drawn = secrets.token_bytes(RID_BYTES * _DRAWN)
            rid, *more = (Rid(drawn[i * RID_BYTES :][:RID_BYTES]) for i in range(_DRAWN))
            self._rids += more
        self._held[rid] = blob
        self._registered += 1
        return rid

    def open(self, rid: bytes) -> Blob:
        """The blob of a RID; it stays the table's: callers do not close it.

        Raises:
            UnknownBlob: If no blob is held under it.
        """
        try:
            return self._held[Rid(rid)]
        except KeyError:
            raise UnknownBlob(rid) from None

    def ref(self, rid: bytes) -> BlobRef:
        """The blob's name for messages.

        Raises:
            UnknownBlob: If no blob is held under it.
        """
        return BlobRef(rid, self.open(rid).size)

    def release(self, rid: bytes) -> None:
        """Close and forget a blob; nothing happens if it is already gone."""
        blob = self._held.pop(Rid(rid), None)
        if blob is not None:
            blob.close()

    def close(self) -> None:
        """Release everything."""
        for rid in tuple(self._held):
            self.release(rid)

    def statistics(self) -> BlobsStatistics:
        """Counts up to now."""
        held_bytes = sum(blob.size for blob in self._held.values())
        released = self._registered - len(self._held)
        return BlobsStatistics(len(self._held), held_bytes, self._registered, released)

    def __repr__(self) -> str:
        return f"<Blobs {len(self._held)} held>"


def _check_seals(fd: int, source: str) -> None:
    import fcntl

    try:
        seals = fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError as error:
        raise BadBlob(source, "it is not a memory file that can be sealed") from error
    if seals & _ALL_SEALS != _ALL_SEALS:
        raise BadBlob(source, f"it is not sealed against every change (seals {seals:#x})")


def _read_whole(fd: int, size: int) -> bytes:
    pieces: list[bytes] = []
    at = 0
    while at < size:
        piece = os.pread(fd, min(size - at, 1 << 24), at)
        if not piece:
            raise BadBlob(f"descriptor {fd}", f"it ends after {at} of {size} bytes")
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)
