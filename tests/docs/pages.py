"""The project's pages as data: their fenced blocks, links and code spans.

Here: reading Markdown as far as the tests of this folder need it. Not here: what must hold of a
page (`test_*.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

# Folders that hold pages; a virtual environment or run folder in the root holds others' pages.
_FOLDERS: Final = ("docs", "examples", "cli/templates", "benchmarks", "tests")

_FENCE: Final = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
_SPAN: Final = re.compile(r"`([^`\n]+)`")
_HEADING: Final = re.compile(r"^#{1,6}\s+(.+?)\s*$", re.MULTILINE)
_ROW: Final = re.compile(r"^\|(.*)\|\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        language: First word of its info string.
        options: The rest, `key=value` by key: `file=NAME` is a file of the page's programs,
            `run=NAME` a file that is run, `output=NAME` what running that file prints.
        text: What is inside.
        line: Line of its fence, from 1.
    """

    language: str
    options: dict[str, str]
    text: str
    line: int


def pages() -> list[Path]:
    """All pages of the project."""
    inside = (page for folder in _FOLDERS for page in sorted((ROOT / folder).rglob("*.md")))
    return [*sorted(ROOT.glob("*.md")), *inside]


def name_of(page: Path) -> str:
    """A page's path from the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page's text."""
    for found in _FENCE.finditer(text):
        language, *rest = found[2].split() or [""]
        options = dict(word.split("=", 1) for word in rest)
        yield Block(language, options, found[3], text.count("\n", 0, found.start()) + 1)


def prose(text: str) -> str:
    """A page's text without its fenced blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Targets of all links outside of code."""
    return _LINK.findall(_SPAN.sub("x", prose(text)))


def spans(text: str) -> list[str]:
    """All code spans."""
    return _SPAN.findall(prose(text))


def anchors(text: str) -> set[str]:
    """What links may point to inside a page, as GitHub names its headings."""
    titles = (re.sub(r"[`*]", "", title).lower() for title in _HEADING.findall(prose(text)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def section(text: str, heading: str) -> str:
    """The part of a page below a heading, up to the next heading of any level."""
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return re.split(r"^#{1,6} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of all table rows, without headings' rules; `\\|` stands for a bar."""
    cells = (re.split(r"(?<!\\)\|", row) for row in _ROW.findall(text))
    plain = ([cell.strip().replace(r"\|", "|") for cell in row] for row in cells)
    return [row for row in plain if not all(set(cell) <= set("-: ") for cell in row)]
