"""Model files: mapping them, and telling safe ones from unsafe ones by content.

Here: private mapping, reading a file's layout, and `load_initial`, which turns whatever a user
calls the initial model into something that can be written as a blob bit for bit. Not here: how a
layout is checked (`layout.py`), packing (`state.py`). A file is only ever mapped and compared with
known first bytes: nothing of it is imported, unpickled or executed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import numpy as np

from ..errors import BadHeader, BadSetting, BadUpdate, UnsafeFile
from .layout import LENGTH_BYTES, MAX_TENSORS, Buffer, Kind, Layout, StateDict, header_size
from .state import Packer, write_all

File: TypeAlias = str | os.PathLike[str] | int

_TAIL_BYTES: Final = 1 << 16  # a zip archive's table of contents, for most models
_MAGIC: Final = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy .npy file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"GGUF", "a GGUF file"),
)
_PICKLE_PROTOCOLS: Final = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_PICKLE_OLD: Final = (b"(", b"c", b"]", b"}")  # how protocols 0 and 1 begin; they end with "."


@dataclass(frozen=True, slots=True)
class InitialModel:
    """The model that round 0 sends, exactly as given.

    Attributes:
        layout: Its canonical layout.
        state: Its tensors, or None if it is a file.
        mapping: The file's bytes, or None if it is a state dict.
        source: The file's own layout, or None if it is a state dict. What the file has not and
            `layout` has is zero.
    """

    layout: Layout
    state: StateDict | None = None
    mapping: mmap.mmap | None = None
    source: Layout | None = None

    @property
    def kind(self) -> Kind:
        """Whether it is a model of torch tensors or of NumPy arrays."""
        return self.layout.kind

    def write(self, fd: int) -> None:
        """Write it as a blob, bit for bit: NaN and infinity too, which a mask may well hold.

        Needs no torch if the model came from a file. Blocks while the file does.

        Raises:
            OSError: The file refused.
        """
        if self.state is not None:
            Packer(self.layout, finite=False).write(self.state, fd)
            return
        assert self.mapping is not None
        assert self.source is not None
        write_all(fd, memoryview(self.layout.header))
        with memoryview(self.mapping) as view:
            for spec in self.layout.specs:
                own = self.source.by_name.get(spec.name)
                if own is not None:
                    write_all(fd, view[own.start : own.end])
                else:
                    _write_zeros(fd, spec.size)


def _write_zeros(fd: int, size: int) -> None:
    piece = bytes(min(size, _TAIL_BYTES))
    while size > 0:
        write_all(fd, memoryview(piece)[:size])
        size -= len(piece)


def map_private(file: File) -> mmap.mmap:
    """Map a file so that it can be written to without changing it.

    Pages are shared with every other process that maps the file, until one is written to: then
    that process alone has its own copy of that page.

    Args:
        file: A path, or an open file descriptor (which may be closed afterwards).

    Raises:
        OSError: The file cannot be opened.
        BadHeader: The file is empty.
    """
    if not isinstance(file, int):
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return map_private(fd)
        finally:
            os.close(fd)
    if os.fstat(file).st_size == 0:
        raise BadHeader("the file is empty")
    return mmap.mmap(file, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def read_layout(file: File, *, expected_tensors: int | None = None) -> Layout:
    """Read the layout of a blob in a file; reads only its header.

    Args:
        file: A path, or an open file descriptor, whose position is left alone.
        expected_tensors: See `Layout.parse`.

    Raises:
        OSError: The file cannot be read.
        BadHeader: As for `Layout.parse`.
    """
    if not isinstance(file, int):
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_layout(fd, expected_tensors=expected_tensors)
        finally:
            os.close(fd)
    needed = header_size(os.pread(file, LENGTH_BYTES + 1, 0), expected_tensors=expected_tensors)
    head = os.pread(file, needed, 0)
    size = os.fstat(file).st_size
    return Layout.parse(head, size=size, expected_tensors=expected_tensors)


def load_initial(source: object) -> InitialModel:
    """Take what a user calls the initial model: its actual weights, copied nowhere yet.

    Args:
        source: A torch module (anything with `state_dict()`), a state dict, named arrays, or a
            path to a safetensors file in any tensor order.

    Raises:
        UnsafeFile: The file can carry code (pickle, `torch.save`, TorchScript, HDF5, ...).
        BadHeader: The file claims to be safetensors but is damaged or unacceptable.
        BadUpdate: A tensor that cannot be stored, by name.
        BadSetting: None of the above, or no such file.
    """
    if isinstance(source, str | os.PathLike):
        return _load_file(Path(cast("str | os.PathLike[str]", source)))
    state_dict: Any = getattr(source, "state_dict", None)
    given: object = state_dict() if callable(state_dict) else source
    if not isinstance(given, Mapping):
        raise BadSetting(
            "initial_model",
            f"{type(source).__name__} is neither a module, a state dict, named arrays nor a path",
        )
    state = {
        _check_name(name): _as_array(value)
        for name, value in cast("Mapping[object, object]", given).items()
    }
    return InitialModel(Layout.of(state), state)


def _load_file(path: Path) -> InitialModel:
    if not path.is_file():
        raise BadSetting("initial_model", f"no such file: {path}")
    if path.stat().st_size == 0:
        raise BadSetting("initial_model", f"the file is empty: {path}")
    mapping = map_private(path)
    try:
        source = Layout.parse(mapping, expected_tensors=MAX_TENSORS)
    except BadHeader as error:
        raise _explain(path, mapping, error) from None
    tensors = [(spec.name, spec.type, spec.shape) for spec in source.specs]
    return InitialModel(Layout.canonical(tensors, source.kind), None, mapping, source)


def _explain(path: Path, mapping: mmap.mmap, error: BadHeader) -> UnsafeFile | BadHeader:
    """Name a foreign format; if it is none we know, give the header's own error."""
    looks_like = recognise(mapping)
    if looks_like is None:
        return BadHeader(f"{path}: {error.why}")
    return UnsafeFile(str(path), looks_like)


def recognise(content: Buffer) -> str | None:
    """Name the format of a file that is not safetensors, by content alone.

    Gives None for a file that begins as safetensors does, and for an unknown format.
    """
    view = memoryview(content).cast("B")
    head = bytes(view[:16])
    if head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and head[5:LENGTH_BYTES] == b"\0\0\0":
        return None
    if head.startswith(b"PK"):
        return _name_archive(bytes(view[-_TAIL_BYTES:]))
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    last = bytes(view[-1:])
    if head.startswith(_PICKLE_PROTOCOLS) or (head.startswith(_PICKLE_OLD) and last == b"."):
        return "a pickle"
    if b"ustar" in bytes(view[257:265]):
        return "a tar archive"
    return None


def _name_archive(tail: bytes) -> str:
    if b"constants.pkl" in tail:
        return "a TorchScript archive"
    if b"data.pkl" in tail:
        return "a torch.save archive (a zip with a pickle)"
    if b".npy" in tail:
        return "a NumPy .npz archive"
    return "a zip archive"


def _check_name(name: object) -> str:
    if not isinstance(name, str):
        raise BadUpdate(str(name), "variables are named by text")
    return name


def _as_array(value: Any) -> Any:
    """Plain numbers and lists become arrays; whatever has a dtype is judged by `Layout.of`."""
    if not isinstance(value, int | float | list):
        return value
    try:
        return np.asarray(cast("Any", value))
    except ValueError:  # a ragged list; refused by its type name
        return cast("object", value)
