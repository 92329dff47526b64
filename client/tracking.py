"""Metric writers for training scripts.

Here: `SummaryWriter`, with the names of TensorBoard's, and how a value of `log` is taken apart
into single metrics. Not here: where metrics go (`covey.actors.observe`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, cast

from .errors import BadMetric
from .session import Session, current

#: data_type -> (kind on the wire, whether the value is a dict)
_TYPES: Final[dict[str, tuple[str, bool]]] = {
    "SCALAR": ("scalar", False),
    "METRIC": ("scalar", False),
    "SCALARS": ("scalar", True),
    "METRICS": ("scalar", True),
    "TEXT": ("text", False),
    "PARAMETER": ("parameter", False),
    "PARAMETERS": ("parameter", True),
    "TAG": ("tag", False),
    "TAGS": ("tag", True),
}


class SummaryWriter:
    """Writes curves into the run's tracking, under the names of TensorBoard's writer.

    It may be made before `init()`, also outside a run; writing needs a run. What is written is
    on its way when a call returns, so `flush` and `close` have nothing to do.

    Args:
        log_dir: Accepted for scripts that pass it; the run decides where curves are kept.
    """

    def __init__(self, log_dir: object = None, **_: object) -> None:
        del log_dir

    def add_scalar(
        self, tag: str, scalar: object, global_step: int | None = None, **_: object
    ) -> None:
        """Write one number, a Python one or a tensor or array of one element.

        Raises:
            BadMetric: If it is not a number.
        """
        current("SummaryWriter.add_scalar()").log(tag, scalar, "scalar", global_step)

    def add_scalars(
        self,
        tag: str,
        scalars: Mapping[str, object],
        global_step: int | None = None,
        **_: object,
    ) -> None:
        """Write several numbers as `tag/name`.

        Raises:
            BadMetric: If one is not a number.
        """
        session = current("SummaryWriter.add_scalars()")
        stream(session, tag, scalars, "SCALARS", {"global_step": global_step})

    def add_text(
        self, tag: str, text_string: str, global_step: int | None = None, **_: object
    ) -> None:
        """Write a text."""
        current("SummaryWriter.add_text()").log(tag, text_string, "text", global_step)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stream(
    session: Session, key: str, value: object, data_type: object, options: Mapping[str, object]
) -> None:
    """Send a value of `log` as one metric, or one for each entry of a dict.

    Raises:
        BadMetric: If type, step or value is not usable; then nothing has been sent of a value
            that is no dict.
    """
    name = str(getattr(data_type, "name", data_type)).rpartition(".")[2].upper()
    if name not in _TYPES:
        raise BadMetric(key, f"data_type {data_type!r} is unknown; one of {', '.join(_TYPES)}")
    kind, many = _TYPES[name]
    step = options.get("global_step", options.get("step"))
    for single, entry in _entries(key, value) if many else ((key, value),):
        session.log(single, entry, kind, step)


def _entries(key: str, value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, Mapping):
        raise BadMetric(key, f"is a {type(value).__name__}; expected a dict")
    # Any mapping may come from a user; keys are turned into names.
    for name, entry in cast("Mapping[object, object]", value).items():
        yield (f"{key}/{name}" if key else str(name)), entry
