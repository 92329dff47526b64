"""The page: tables with columns of their own, as Markdown and as JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: Of what a failed run printed, so much is shown.
_SAID_CHARACTERS = 160
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Table:
    """Some rows of one kind.

    Attributes:
        name: The heading.
        note: What to know about all of its rows.
        columns: Their names.
        rows: What is shown in them.
        data: Whatever was measured, for the JSON.
    """

    name: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])


def write(folder: Path, facts: Mapping[str, str], tables: Sequence[Table]) -> None:
    """Write `PEERS.json` and `PEERS.md`."""
    content = {"facts": dict(facts), "tables": [asdict(table) for table in tables]}
    (folder / "PEERS.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "PEERS.md").write_text(markdown(facts, tables))


def markdown(facts: Mapping[str, str], tables: Sequence[Table]) -> str:
    """The tables as a page."""
    lines = ["# covey beside its peers", "", "Written by `python -m benchmarks.peers`.", ""]
    lines += [f"- {name}: {fact}" for name, fact in facts.items()]
    for table in tables:
        lines += ["", f"## {table.name}", "", table.note, ""]
        lines += [_line(table.columns), _line(["---"] * len(table.columns))]
        lines += [_line(row) for row in table.rows]
    return "\n".join(lines) + "\n"


def show(table: Table) -> None:
    """Print a table for a person."""
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    print(f"\n{table.name}", file=sys.stderr)
    for row in [table.columns, *table.rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join(cells).rstrip(), file=sys.stderr)


def last_words(said: str) -> str:
    """The last line that a run printed, in one cell of a table."""
    lines = [line.strip() for line in _COLOURS.sub("", said).splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return last[-_SAID_CHARACTERS:].replace("|", "\\|")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
