"""Curves for TensorBoard: one folder for each site and one for the global model.

Here: turning events into TensorBoard's own records. Not here: who asks for tracking (recipes),
how metrics reach a run (the roles), which value has which name and step (`tracking.py`). Needs the
extra `tracking`, never torch.

Files are opened, appended to and closed again at each flush, by TensorBoard's own record writer
but without the thread that its event writer starts for each file: a run may have more sites than
a process may have open files.
"""

from __future__ import annotations

import importlib
import io
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any, Final

from .errors import TrackingUnavailable
from .events import EventKind, RunEvent
from .order import Order
from .tracking import SCALAR, Curves, Point

#: A script may stream thousands of values a second; TensorBoard itself looks every few seconds.
_FLUSH_EVERY_S: Final = 1.0

#: Events after which a run's curves are on the disk.
_MILESTONES: Final = frozenset({EventKind.ROUND_FINISHED, EventKind.RUN_FINISHED})

#: Runs in one process may start within one second, and resume in the same folder.
_file_numbers = itertools.count()


def require() -> None:
    """Check that TensorBoard can be imported, without starting anything.

    Raises:
        TrackingUnavailable: If not; the message says what to install.
    """
    _Protos()


class TensorBoardTracker:
    """Writes the curves of a run; subscribe it to the run's journal.

    Args:
        folder: Where the folders of sites, and `global`, are made; usually
            `<run>/tracking/tensorboard`.

    Raises:
        TrackingUnavailable: If TensorBoard cannot be imported.
        OSError: If the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._protos = _Protos()
        self._folder = folder
        self._files: dict[str, _EventFile] = {}
        self._curves = Curves()
        self._order = Order()
        self._flushed_at = time.time()
        folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<TensorBoardTracker {self._folder}, {len(self._files)} folders>"

    def __call__(self, event: RunEvent) -> None:
        """Take in one event.

        Raises:
            OSError: If a file cannot be written.
        """
        for point in self._order.points(event, self._curves.points(event)):
            self._add(point)
        if event.kind in _MILESTONES:
            self.flush()
        elif event.time - self._flushed_at >= _FLUSH_EVERY_S:
            self._flushed_at = event.time
            self.flush()

    def flush(self) -> None:
        """Write what is held back.

        Raises:
            OSError: If a file cannot be written.
        """
        for file in self._files.values():
            file.flush()

    async def end(self) -> None:
        """Write what is held back. As `flush`."""
        self.flush()

    def close(self) -> None:
        """Write what is held back; no file stays open anyway. As `flush`."""
        self.flush()

    def _add(self, point: Point) -> None:
        protos = self._protos
        if point.kind == SCALAR:
            summary = protos.scalar(point.name, float(point.value))
        else:
            summary = protos.text(point.name, str(point.value))
        self._file(point.site).add(summary, point.step, point.time)

    def _file(self, site: str) -> _EventFile:
        file = self._files.get(site)
        if file is None:
            file = self._files[site] = _EventFile(self._folder / site, self._protos)
        return file


class _Protos:
    """TensorBoard's records. Any: its generated classes carry no types."""

    def __init__(self) -> None:
        try:
            self._event: Any = _load("compat.proto.event_pb2").Event
            self._summary: Any = _load("compat.proto.summary_pb2").Summary
            metadata: Any = _load("compat.proto.summary_pb2").SummaryMetadata
            self._tensor: Any = _load("compat.proto.tensor_pb2").TensorProto
            self._string: Any = _load("compat.proto.types_pb2").DT_STRING
            self._writer: Any = _load("summary.writer.record_writer").RecordWriter
        except Exception as error:  # also a protobuf of another age, which raises TypeError
            why = f"{type(error).__name__}: {error}"
            raise TrackingUnavailable("TensorBoard", "tensorboard", why) from error
        self._text_metadata: Any = metadata(plugin_data={"plugin_name": "text"})

    def scalar(self, tag: str, value: float) -> Any:
        return self._summary(value=[{"tag": tag, "simple_value": value}])

    def text(self, tag: str, text: str) -> Any:
        tensor = self._tensor(
            dtype=self._string,
            string_val=[text.encode()],
            tensor_shape={"dim": [{"size": 1}]},
        )
        entry = {"tag": tag, "metadata": self._text_metadata, "tensor": tensor}
        return self._summary(value=[entry])

    def first_record(self) -> bytes:
        return self._record(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def record(self, summary: Any, step: int, wall_time: float) -> bytes:
        return self._record(self._event(wall_time=wall_time, step=step, summary=summary))

    def _record(self, event: Any) -> bytes:
        buffer = io.BytesIO()
        self._writer(buffer).write(event.SerializeToString())
        return buffer.getvalue()


class _EventFile:
    """One event file: records held back in memory, appended to the file at each flush."""

    def __init__(self, folder: Path, protos: _Protos) -> None:
        folder.mkdir(exist_ok=True)
        # Readers take files in the order of their names, and several may be of one second.
        number = f"{next(_file_numbers):06d}"
        name = f"{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{number}"
        # TensorBoard finds its files by this prefix and reads them in the order of the time.
        self._path = folder / f"events.out.tfevents.{name}"
        self._protos = protos
        self._pending = bytearray(protos.first_record())

    def add(self, summary: Any, step: int, wall_time: float) -> None:
        self._pending += self._protos.record(summary, step, wall_time)

    def flush(self) -> None:
        if self._pending:
            # Taken out first: after a full disk, records are not written twice.
            data, self._pending = self._pending, bytearray()
            with self._path.open("ab") as file:
                file.write(data)


def _load(module: str) -> Any:
    return importlib.import_module(f"tensorboard.{module}")
