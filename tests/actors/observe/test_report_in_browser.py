"""A real browser shows a report without a request, a complaint, or a page wider than itself.

The pictures that it takes are kept in `ci-artifacts/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from covey.actors.observe.report import write_report

from .browser import Browser
from .folders import Folder, buffered, trained

ARTIFACTS = Path(__file__).parents[3] / "ci-artifacts"
PHONE = 390
DESKTOP = 1200

#: Would leave a mark in the page if any of it were taken for more than text.
HOSTILE = (
    "</script><script>window.ran=1</script><img src='http://x.invalid/' onerror='window.ran=1'>"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.fixture
def page(tmp_path: Path) -> Path:
    run = trained(tmp_path / "digits" / "20261124T100000Z-5f6974", rounds=20, sites=5, skip=(7,))
    run.fail(7, "site-2")
    run.end()
    return write_report(run.path)


def check(browser: Browser, page: Path) -> None:
    """What must hold of every page that is open."""
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.complaints == []
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.evaluate("window.ran") is None
    lines = (page.parent / "metrics.jsonl").read_text().splitlines()
    rows = browser.evaluate("JSON.parse(document.getElementById('metrics').textContent)")
    assert rows == [json.loads(line) for line in lines]
    assert browser.evaluate("document.querySelectorAll('figure svg').length") > 0


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [("light", DESKTOP, False), ("dark", DESKTOP, True), ("phone", PHONE, False)],
)
def test_a_page_is_shown_in_light_dark_and_on_a_phone(
    browser: Browser, page: Path, name: str, width: int, dark: bool
) -> None:
    browser.open(page, width, 900, dark)
    check(browser, page)
    colour = "getComputedStyle(document.body).backgroundColor"
    assert browser.evaluate(colour) == ("rgb(18, 22, 28)" if dark else "rgb(246, 247, 249)")
    browser.screenshot(ARTIFACTS / f"report-{name}.png")


def test_text_on_a_phone_can_be_read(browser: Browser, page: Path) -> None:
    browser.open(page, PHONE, 844)
    smallest = """Math.min(...Array.from(document.querySelectorAll('svg text'),
        text => 12 * text.ownerSVGElement.getBoundingClientRect().width / 440))"""
    assert browser.evaluate(smallest) > 8.5


def test_pointing_at_a_curve_shows_its_values(browser: Browser, page: Path) -> None:
    browser.open(page, DESKTOP, 900)
    place = """(() => { const box = document.querySelectorAll('.strip')[10]
        .getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"""
    shown = """Array.from(document.querySelectorAll('.read'))
        .filter(read => getComputedStyle(read).opacity == '1').map(read => read.textContent)"""
    assert browser.evaluate(shown) == []
    browser.point(*browser.evaluate(place))
    (told,) = browser.evaluate(shown)
    assert told.startswith("round 10site-1 0.")
    assert "global 0." in told
    browser.screenshot(ARTIFACTS / "report-pointed-at.png", whole=False)


def test_asynchronous_training_and_many_sites_are_shown(browser: Browser, tmp_path: Path) -> None:
    run = buffered(tmp_path / "buffered" / "20261124T100000Z-5f6974")
    run.end()
    page = write_report(run.path)
    browser.open(page, DESKTOP, 900)
    check(browser, page)
    browser.screenshot(ARTIFACTS / "report-asynchronous.png")


def test_hostile_names_run_nothing_and_ask_for_nothing(browser: Browser, tmp_path: Path) -> None:
    run = Folder(tmp_path / "run", name=HOSTILE, rounds=1)
    run.start()
    run.begin(0)
    run.answer(0, HOSTILE, {HOSTILE: 1.0})
    run.settle(0, {HOSTILE: 1.0})
    told = dict.fromkeys(("kind", "text", "file", "source_line", "traceback"), HOSTILE)
    run.fail(0, HOSTILE, **told)
    run.end(HOSTILE, HOSTILE, **told)
    page = write_report(run.path)
    browser.open(page, PHONE, 844)
    check(browser, page)
