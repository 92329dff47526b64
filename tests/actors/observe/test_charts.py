"""Pictures stay within their frame, whatever the numbers are."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from covey.actors.observe.charts import HEIGHT, WIDTH, Curve, Part, lines, stacked
from covey.actors.observe.curves import Band, Bar, bounded

VALUES = st.lists(st.floats(width=64).map(bounded), min_size=1, max_size=40)


def check_places(picture: str) -> None:
    """Every number of every mark is one, and lies in the picture."""
    assert "nan" not in picture
    assert "inf" not in picture
    places = re.findall(r'\b(?:x|cx|width)="([^"]*)"', picture)
    heights = re.findall(r'\b(?:y|cy|height)="([^"]*)"', picture)
    for path in re.findall(r' d="([^"]*)"', picture):
        points = re.findall(r"([-\d.]+),([-\d.]+)", path)
        places += [x for x, _ in points]
        heights += [y for _, y in points]
    assert all(0 <= float(place) <= WIDTH for place in places)
    assert all(0 <= float(height) <= HEIGHT for height in heights)


@given(VALUES, st.integers(-(10**9), 10**9))
def test_lines_of_any_values_stay_in_the_picture(values: list[float], first: int) -> None:
    points = [(float(first + i), y) for i, y in enumerate(values)]
    spread = [Band(x, y, y, y) for x, y in points if not math.isnan(y)]
    picture = lines("loss", [Curve("a", "c0", points)], spread)
    assert bool(picture) == bool(spread)
    check_places(picture)


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(0, 1e12)), min_size=1, max_size=60))
def test_bars_of_any_height_stay_in_the_picture(heights: list[tuple[float, float]]) -> None:
    rows = [Bar(number, number, parts) for number, parts in enumerate(heights)]
    check_places(stacked("time", [Part("a", "c0"), Part("b", "c1")], rows, "s"))


def test_a_point_between_gaps_is_a_dot() -> None:
    values = [1.0, math.nan] * 40
    picture = lines("loss", [Curve("a", "c0", list(enumerate(values)))], [])
    assert picture.count("<circle") >= 40


def test_names_that_are_too_long_do_not_push_what_is_read_off_out_of_the_picture() -> None:
    curve = Curve("s" * 1000, "c0", [(0.0, 1.0), (1.0, 2.0)])
    check_places(lines("loss", [curve], []))
