"""What the page on extending says of the seams is what they have; its programs are short."""

from __future__ import annotations

import re

from covey.actors.jobs.workflow import Rounds
from covey.algorithms import Accumulator, Aggregation

from .pages import ROOT, blocks, rows, section, spans

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MOST_LINES = 40


def named(heading: str) -> set[str]:
    """The first word of each code span in the first cells of a section's tables."""
    cells = [row[0] for row in rows(section(PAGE, heading))]
    words = (span.removeprefix("await ") for cell in cells for span in spans(cell))
    return {re.split(r"\W", word)[0] for word in words} - {"Aggregation", "Rounds"}


def public(cls: type) -> set[str]:
    """What a class offers."""
    names = vars(cls).keys() | vars(cls).get("__annotations__", {}).keys()
    return {name for name in names if not name.startswith("_")}


def test_the_page_names_all_that_a_workflow_is_handed() -> None:
    assert named("## A workflow") == public(Rounds)


def test_the_page_names_all_that_a_rule_can_say() -> None:
    known = public(Aggregation) | public(Accumulator)
    assert named("## An aggregation") == known - {"sends", "answers"}  # what `excluded` decides


def test_programs_that_extend_covey_are_short() -> None:
    lengths = {
        block.options["run"]: len([line for line in block.text.splitlines() if line.strip()])
        for block in blocks(PAGE)
        if "run" in block.options
    }
    assert lengths.keys() == {"median.py", "worst.py"}
    assert max(lengths.values()) < MOST_LINES, lengths
