from __future__ import annotations

import pytest

from covey.client.messages import (
    MESSAGES,
    Answer,
    Ended,
    Failed,
    Metric,
    Ready,
    Stop,
    Task,
    messages,
)
from covey.transport import Record

EXAMPLES: list[Record] = [
    Task("train", 0, 3, "/model", 8),
    Task("submit_model", 2, 3),
    Stop(),
    Ready(12),
    Answer(
        "train", 1, "DIFF", True, 9, {"loss": 0.5}, {"n": 3, "on": True, "who": "me", "x": None}
    ),
    Metric("loss", 0.5, 3),
    Metric("note", "text", None, "text"),
    Failed("ValueError", "bad", "Traceback", "client.py", 3, "work()"),
    Ended(),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_wire(message: Record) -> None:
    registry = messages()
    assert registry.unpack(*registry.pack(message)) == message


def test_ids_are_those_of_this_room() -> None:
    ids = [message.wire_id for message in MESSAGES]
    assert len(set(ids)) == len(ids)
    assert all(200 <= wire_id <= 299 for wire_id in ids)
