"""Links lead somewhere, and the names that pages give to code exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from .pages import ROOT, anchors, links, name_of, pages, spans

EVERY_PAGE = pytest.mark.parametrize("page", pages(), ids=name_of)

ROOMS = "actors|algorithms|cli|client|recipes|transport"
# A file of the project in a code span, from the root.
FILE = re.compile(rf"(?:{ROOMS}|tests|docs|examples|benchmarks)/[\w./\-]*(?:\.(?:py|md)|/)")
# A dotted name of the project in a code span, called or not.
NAME = re.compile(rf"(covey\.(?:{ROOMS})(?:\.\w+)*)(?:\(.*)?")


@EVERY_PAGE
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    wrong: list[str] = []
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not (target.exists() and target.is_relative_to(ROOT) and has(target, anchor)):
            wrong.append(link)
    assert wrong == []


def test_the_contents_of_the_page_of_recipes_name_all_its_chapters() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    before, first, rest = text.partition("\n## ")
    chapters = re.findall(r"^## .+$", first + rest, re.MULTILINE)
    assert {f"#{anchor}" for anchor in anchors("\n".join(chapters))} <= set(links(before))


@EVERY_PAGE
def test_files_of_the_project_that_a_page_names_exist(page: Path) -> None:
    named = (span for span in spans(page.read_text(encoding="utf-8")) if FILE.fullmatch(span))
    assert [span for span in named if not (ROOT / span).exists()] == []


@EVERY_PAGE
def test_dotted_names_of_the_project_that_a_page_gives_exist(page: Path) -> None:
    found = (NAME.fullmatch(span) for span in spans(page.read_text(encoding="utf-8")))
    assert [name[1] for name in found if name is not None and not exists(name[1])] == []


def has(target: Path, anchor: str) -> bool:
    """Whether a page has a heading of this anchor; anchors into code are not looked at."""
    if not anchor or target.suffix != ".md":
        return True
    return anchor in anchors(target.read_text(encoding="utf-8"))


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False
