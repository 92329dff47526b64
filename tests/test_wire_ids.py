"""The table of wire ids in docs/wire.md is that of the code, and ids lie in their room's range."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from covey.actors.downloads.blobs import BlobRef
from covey.actors.roles.messages import role_messages
from covey.actors.runtime import runtime_messages
from covey.client.messages import MESSAGES
from covey.edge.relay import relay_messages
from covey.transport import Record, Registry
from covey.transport.sessions.messages import SESSION_MESSAGES

ROOT = Path(__file__).parents[1]
ROOMS = ("transport", "security", "algorithms", "client", "actors", "edge", "recipes", "cli")
PAGE = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")

Row = tuple[int, str, str]


def listed() -> list[Row]:
    """Id, class and file of each row of the table."""
    found = re.findall(r"^\| (\d+) \| `(\w+)` \| `([\w/]+\.py)` \|", PAGE, re.MULTILINE)
    return [(int(number), name, file) for number, name, file in found]


def written() -> Iterator[Row]:
    """Id, class and file of each class statement with an id."""
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for keyword in node.keywords:
                    if keyword.arg == "id" and isinstance(keyword.value, ast.Constant):
                        number = keyword.value.value
                        assert isinstance(number, int)
                        yield number, node.name, path.relative_to(ROOT).as_posix()


def row_of(record: type[Record]) -> Row:
    """A registered class as the table has it."""
    return record.wire_id, record.__name__, file_of(record)


def file_of(record: type[Record]) -> str:
    return record.__module__.removeprefix("covey.").replace(".", "/") + ".py"


def test_the_table_lists_exactly_the_ids_of_the_code() -> None:
    assert listed() == sorted(written())


def test_no_id_is_given_twice() -> None:
    ids = [number for number, _, _ in written()]
    assert len(ids) == len(set(ids))


def test_every_record_that_a_registry_takes_is_in_the_table() -> None:
    records = (
        *runtime_messages(),
        *role_messages(),
        *MESSAGES,
        *SESSION_MESSAGES,
        *relay_messages(),
        BlobRef,
    )
    assert set(map(row_of, records)) <= set(listed())
    Registry(*records).freeze()  # one table may hold them all


def test_ids_lie_in_the_range_of_their_room() -> None:
    ranges = re.findall(r"^\| (\d+)-(\d+) \| `covey\.([\w.]+)` \|", PAGE, re.MULTILINE)
    assert len(ranges) == 6
    for number, name, file in written():
        (room,) = [room for low, high, room in ranges if int(low) <= number <= int(high)]
        assert file.startswith(room.replace(".", "/") + "/"), f"{name}, id {number}, is in {file}"
