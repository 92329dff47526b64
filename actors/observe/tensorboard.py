"""Curves for TensorBoard: one folder for each site and one for the global model.

Here: turning events into TensorBoard's own records. Not here: who asks for tracking (recipes),
how metrics reach a run (the roles). Needs the extra `tracking`, never torch.

Steps: a metric that a script streams has the script's own step, a metric of a round has the
round. Files are opened, appended to and closed again at each flush, by TensorBoard's own record
writer but without the thread that its event writer starts for each file: a run may have more
sites than a process may have open files.
"""

from __future__ import annotations

import importlib
import io
import itertools
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .errors import TrackingUnavailable
from .events import EventKind, RunEvent

#: A script may stream thousands of values a second; TensorBoard itself looks every few seconds.
_FLUSH_EVERY_S: Final = 1.0

#: Folder of the global model's curves; no site may have this name.
GLOBAL: Final = "global"

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

    Metrics of a site's answer and of a round are written at their round, under their own name;
    if the script streams a curve of the same name, a site's metric of rounds is `round/<name>`,
    so that two kinds of steps never share a curve.

    Args:
        folder: Where the folders of sites are made; usually `<run>/tracking/tensorboard`.

    Raises:
        TrackingUnavailable: If TensorBoard cannot be imported.
        OSError: If the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._protos = _Protos()
        self._folder = folder
        self._files: dict[str, _EventFile] = {}
        self._streamed: dict[str, Counter[str]] = {}
        self._flushed_at = time.time()
        folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<TensorBoardTracker {self._folder}, {len(self._files)} folders>"

    def __call__(self, event: RunEvent) -> None:
        """Take in one event.

        Raises:
            OSError: If a file cannot be written.
        """
        match event.kind:
            case EventKind.METRIC:
                self._streamed_metric(event)
            case EventKind.SITE_FINISHED:
                self._round_metrics(event.site or GLOBAL, event)
            case EventKind.ROUND_FINISHED:
                self._round_metrics(GLOBAL, event)
                self.flush()
            case EventKind.RUN_FINISHED:
                self.flush()
            case _:
                return
        if event.time - self._flushed_at >= _FLUSH_EVERY_S:
            self._flushed_at = event.time
            self.flush()

    def flush(self) -> None:
        """Write what is held back.

        Raises:
            OSError: If a file cannot be written.
        """
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Write what is held back; no file stays open anyway. As `flush`."""
        self.flush()

    def _streamed_metric(self, event: RunEvent) -> None:
        site, key, step = event.site or GLOBAL, str(event.data["key"]), event.data.get("step")
        counter = self._streamed.setdefault(site, Counter())
        if step is None:
            step = counter[key]  # without steps of its own a curve counts its values
        counter[key] += 1
        value = event.data["value"]
        if event.data.get("type", "scalar") == "scalar":
            self._file(site).add(self._protos.scalar(key, float(value)), step, event.time)
        else:
            self._file(site).add(self._protos.text(key, str(value)), step, event.time)

    def _round_metrics(self, site: str, event: RunEvent) -> None:
        metrics: Mapping[str, float] = event.data.get("metrics", {})
        if not metrics or event.round is None:
            return
        streamed = self._streamed.get(site, ())
        file = self._file(site)
        for name, value in metrics.items():
            tag = f"round/{name}" if name in streamed else name
            file.add(self._protos.scalar(tag, float(value)), event.round, event.time)

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
        name = f"{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_file_numbers)}"
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
