from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import covey.client as flare
from covey.client.messages import Metric
from covey.client.tracking import SummaryWriter

if TYPE_CHECKING:
    from tests.client.conftest import Desk


class ForeignDataType(Enum):
    SCALAR = 1
    SCALARS = 2


def test_a_writer_may_be_made_outside_a_run_but_not_write() -> None:
    with SummaryWriter(log_dir="runs") as writer:
        writer.flush()
        with pytest.raises(flare.NotInRun, match=r"SummaryWriter\.add_scalar"):
            writer.add_scalar("loss", 1)


def test_a_writer_streams_numbers_and_text(desk: Desk) -> None:
    writer = SummaryWriter()
    writer.add_scalar("loss", np.float32(0.5), global_step=np.int64(3))  # type: ignore[arg-type]
    writer.add_scalars("acc", {"train": 1, "val": np.array([0.25])}, 4)
    writer.add_text("note", "hello")
    assert desk.channel.sent == [
        Metric("loss", 0.5, 3),
        Metric("acc/train", 1.0, 4),
        Metric("acc/val", 0.25, 4),
        Metric("note", "hello", None, "text"),
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("loss", 1.5), [Metric("loss", 1.5)]),
        (("loss", 1, ForeignDataType.SCALAR), [Metric("loss", 1.0)]),
        (("", {"a": 1, "b": 2}, ForeignDataType.SCALARS), [Metric("a", 1.0), Metric("b", 2.0)]),
        (("lr", 0.1, "PARAMETER"), [Metric("lr", 0.1, None, "parameter")]),
        (("p", {"x": "y"}, "parameters"), [Metric("p/x", "y", None, "parameter")]),
        (("who", "me", "TAG"), [Metric("who", "me", None, "tag")]),
    ],
)
def test_log_takes_every_data_type(desk: Desk, arguments: Any, expected: list[Metric]) -> None:
    flare.log(*arguments)
    assert desk.channel.sent == expected


def test_log_takes_a_step_by_either_name(desk: Desk) -> None:
    flare.log("a", 1, "SCALAR", global_step=2)
    flare.log("a", 1, step=3)
    assert desk.channel.sent == [Metric("a", 1.0, 2), Metric("a", 1.0, 3)]


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("loss", "high"), {}, "is a str; expected a number"),
        (("loss", np.zeros(2)), {}, r"ndarray of shape \[2\]"),
        (("loss", 1, "PICTURE"), {}, "data_type 'PICTURE' is unknown"),
        (("loss", 1, "SCALARS"), {}, "expected a dict"),
        (("loss", 1), {"step": "two"}, "step is a str"),
    ],
)
def test_what_cannot_be_logged_is_refused(
    desk: Desk, arguments: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(flare.BadMetric, match=words):
        flare.log(*arguments, **options)
    assert desk.channel.sent == []
