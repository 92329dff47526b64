"""What `report.html` holds: the values of `metrics.jsonl`, and nothing that a name made up."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from covey.actors.observe import report
from covey.actors.observe.chronicle import Chronicle
from covey.actors.observe.events import EventKind
from covey.actors.observe.report import Plot, report_at_end, report_of, write_report

from .folders import FAILURE, Folder, buffered, trained

#: Elements without an end tag.
VOID = {"meta", "link", "br", "path", "circle", "rect"}
ELEMENTS = VOID | {
    *("html", "head", "title", "style", "body", "main", "header", "section", "footer", "script"),
    *("h1", "h2", "p", "div", "span", "small", "i", "ul", "li", "dl", "dt", "dd", "pre", "code"),
    *("figure", "figcaption", "svg", "g", "text", "details", "summary"),
    *("table", "caption", "tr", "th", "td"),
}


class Page(HTMLParser):
    """A page taken apart: its elements, its visible text, and the rows that it carries."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.data: dict[str, str | None] = {}
        self._open: list[str] = []
        self._texts: list[str] = []
        self._json = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.data = dict(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self._json += data
        elif self._open[-1:] != ["style"]:
            self._texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._texts).split())

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._json, parse_constant=pytest.fail)
        return found


def page_of(run: Folder) -> Page:
    return Page(write_report(run.path).read_text(encoding="utf-8"))


def rows_of(run: Folder) -> list[dict[str, Any]]:
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "digits" / "20261124T100000Z-aaaaaa"


def test_the_rows_of_a_page_are_those_of_the_file(path: Path) -> None:
    run = trained(path)
    run.end()
    page = page_of(run)
    assert page.rows == rows_of(run)
    assert len(page.rows) == 50
    assert (page.data["id"], page.data["type"]) == ("metrics", "application/json")
    assert (page.data["data-complete"], page.data["data-rows"]) == ("true", "50")


def test_a_page_tells_the_run_its_curves_and_its_times(path: Path) -> None:
    run = trained(path)
    run.end()
    text = page_of(run).text
    for part in ("digits", "completed", path.name, "10 of 10", "0.97 accuracy, round 9"):
        assert part in text
    for title in ("accuracy", "loss", "Time of a round, ms", "Sent and received, KB"):
        assert title in text
    assert "round 3 site-1" in text
    assert "aggregation and commit 8" in text  # ms of every round


def test_a_picture_can_be_read_out(path: Path) -> None:
    run = trained(path, rounds=2, sites=1)
    run.end()
    labels = [value for name, value in page_of(run).attributes if name == "aria-label"]
    assert labels[0].startswith("accuracy by round: site-1 from ")
    assert "; global from " in labels[0]


def test_nan_is_null_in_the_rows_and_a_gap_in_the_curve(path: Path) -> None:
    run = Folder(path, rounds=5, sites=1)
    run.start()
    for number, value in enumerate([0.1, 0.2, math.nan, math.inf, 0.3]):
        run.begin(number)
        run.answer(number, "site-1", {"accuracy": value})
        run.settle(number, {"accuracy": value})
    run.end()
    text = write_report(path).read_text()
    assert [row["metrics"]["accuracy"] for row in Page(text).rows if row["site"] == "global"] == [
        *(0.1, 0.2, None, None, 0.3),
    ]
    (line,) = re.findall(r'<path class="line all" d="([^"]*)"', text)
    assert re.sub(r"[\d.,]", "", line) == "MLM"
    assert "nan" not in text.lower()


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "\u202egnp.exe",
    "a\x00b\x1b[31m",
    "\udcff",
    "${7*7}{{7*7}}{0}%s",
    "x" * 10_000,
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_and_texts_stay_text(path: Path, name: str) -> None:
    run = Folder(path, name=name, rounds=1, sites=2)
    run.start()
    run.begin(0)
    run.answer(0, name, {name: 1.0, "accuracy": 0.5})
    run.settle(0, {name: 1.0})
    told = dict.fromkeys(("kind", "text", "file", "line", "source_line", "traceback"), name)
    run.fail(0, name, **told)
    run.tell(EventKind.NOTICE, text=name)
    run.tell(EventKind.METRIC, 0, name, key=name, value=1.0, step=1, type="scalar")
    run.end(f"failed {name}", name, **told)
    page = page_of(run)
    assert page.elements <= ELEMENTS
    attributes = {attribute for attribute, _ in page.attributes}
    assert not {attribute for attribute in attributes if attribute.startswith("on")}
    assert not attributes & {"src", "srcset", "action", "formaction", "xlink:href"}
    assert [value for attribute, value in page.attributes if attribute == "href"] == ["data:,"]
    assert page.rows == rows_of(run)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", page.text)
    assert name[:20].strip("\x00\x1b\u202e\udcff<\"'") in page.text or "\ufffd" in page.text


def test_a_page_forbids_scripts_and_requests(path: Path) -> None:
    run = trained(path)
    run.end()
    policy = next(value for _, value in page_of(run).attributes if "default-src" in value)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "http" not in re.sub(r'"[^"]*"', "", write_report(path).read_text().split("<body")[1])


def test_a_failed_run_names_the_users_own_line(path: Path) -> None:
    run = trained(path, rounds=2, sites=3)
    run.begin(2)
    run.fail(2, "site-2")
    place = {key: FAILURE[key] for key in ("kind", "file", "line", "source_line", "traceback")}
    run.end("failed", "too few sites: 2 of 3", **place)
    text = page_of(run).text
    assert "failed" in text
    assert "too few sites: 2 of 3" in text
    assert 'File "/home/ann/job/client.py", line 41 raise ValueError("bad batch")' in text
    assert "Failures 1" in text
    assert "site-2 2 ValueError: bad batch" in text


def test_a_folder_with_nothing_in_it_makes_a_page(tmp_path: Path) -> None:
    text = Page(write_report(tmp_path).read_text()).text
    assert "unfinished" in text
    assert Page(report_of(Chronicle(tmp_path), "running")).rows == []


def test_a_run_before_its_first_answer_makes_a_page(path: Path) -> None:
    run = Folder(path)
    run.start()
    run.begin(0)
    run.journal.close()
    page = page_of(run)
    assert page.rows == []
    assert "10 planned" in page.text


def test_a_line_that_is_cut_off_is_left_out(path: Path) -> None:
    run = trained(path, rounds=2, sites=2)
    run.journal.close()
    rows = rows_of(run)
    for name in ("metrics.jsonl", "logs/server.jsonl"):
        with (path / name).open("ab") as file:
            file.write(b'{"round": 2, "site": "si')
    (path / "summary.json").write_text("{")
    page = page_of(run)
    assert page.rows == rows
    assert page.data["data-complete"] == "true"


@pytest.mark.parametrize(
    "line",
    [
        "3",
        "[]",
        "{}",
        '{"round": 0, "site": "a", "metrics": 3}',
        '{"round": "x", "site": "a", "metrics": {}}',
        '{"round": 0, "site": "a", "metrics": {"m": "x"}}',
        '{"round": 0, "site": "a", "metrics": {"m": NaN}}',
        '{"round": 1e999, "site": "a", "metrics": {}}',
        '["round.started", null, null, 0, {}]',
        '["round.finished", 0, null, "x", {"bytes": {}}]',
        '["metric", 0, "a", 0, {"key": "k", "value": "x"}]',
        '["site.finished", 0, "a", 0, {"staleness": "x"}]',
        '["unheard.of", 0, "a", 0, {}]',
    ],
)
def test_lines_that_make_no_sense_are_left_out(path: Path, line: str) -> None:
    run = trained(path, rounds=1, sites=1)
    run.journal.close()
    rows = rows_of(run)
    for name in ("metrics.jsonl", "logs/server.jsonl"):
        with (path / name).open("a") as file:
            file.write(line + "\n")
    assert page_of(run).rows == rows


def test_many_sites_are_a_band_and_the_outermost_two(path: Path) -> None:
    run = trained(path, sites=60)
    run.end()
    text = page_of(run).text
    assert "8 of 10 sites" in text
    assert "(lowest)" in text
    assert "(highest)" in text
    assert "Sites by number of answers" not in text  # all gave as many
    assert "24 of 60: those that failed, then the slowest" in text


def test_asynchronous_training_shows_staleness_and_who_took_part(path: Path) -> None:
    run = buffered(path)
    run.end()
    text = page_of(run).text
    assert "Staleness of answers" in text
    assert "Answers by each tenth of the sites" in text
    assert "tenth, from fast to slow 10 share" in text
    assert "accuracy by virtual time" in text
    assert "virtual s 3.33 global 0." in text
    assert "Sites by number of answers" in text
    assert "Time of a round" not in text


def test_curves_that_scripts_stream_are_shown_at_their_steps(path: Path) -> None:
    run = Folder(path)
    run.start()
    for step in range(0, 100_000, 100):
        run.tell(EventKind.METRIC, 0, "site-1", key="inner", value=1.0, step=step, type="scalar")
    run.tell(EventKind.METRIC, 0, "site-1", key="note", value="hello", step=0, type="text")
    run.end()
    text = page_of(run).text
    assert "Streamed by scripts inner" in text
    assert "note" not in text


def test_a_resumed_run_counts_the_round_that_was_cut_off_once(path: Path) -> None:
    run = trained(path, rounds=3, sites=2)
    run.begin(3)
    run.answer(3, "site-1", {"accuracy": 0.5})
    run.clock += 3600
    run.start(resumed=3)
    run.begin(3)
    run.clock += 0.1
    run.answer(3, "site-1", {"accuracy": 0.5})
    run.settle(3, {"accuracy": 0.5})
    run.end()
    times = Chronicle(path).times_of_training()
    assert sorted(times) == [0, 1, 2, 3]
    began, first, last, ended = times[3]
    assert began < first <= last < ended < began + 1


def test_a_resumed_run_counts_the_ages_of_the_updates_that_it_kept(path: Path) -> None:
    run = Folder(path, sites=3)
    run.start()
    for staleness in (0, 0, 1, 7, 7):
        run.answer(0, "site-1", {}, staleness=staleness, virtual_s=2.0)
    run.answer(0, "site-2", {}, staleness=7, virtual_s=2.0)
    run.start(resumed=1, resumed_updates=3)
    run.answer(1, "site-3", {}, staleness=2, virtual_s=1.0)
    run.answer(1, "site-3", {}, staleness=9, virtual_s=1.0)
    run.start(resumed=2, resumed_updates=4)
    run.answer(2, "site-3", {}, staleness=3, virtual_s=1.0)
    run.end()
    told = Chronicle(path)
    assert told.staleness == {0: 2, 1: 1, 2: 1, 3: 1}
    assert {site.name: site.virtual_s for site in told.sites if site.virtual_s} == {
        "site-1": 6.0,
        "site-3": 2.0,
    }


def test_a_run_that_was_cut_off_before_its_first_version_counts_ages_anew(path: Path) -> None:
    run = Folder(path, sites=1)
    run.start()
    run.answer(0, "site-1", {}, staleness=0)
    run.start(resumed=0, resumed_updates=None)
    run.answer(0, "site-1", {}, staleness=0)
    run.end()
    assert Chronicle(path).staleness == {0: 1}


def test_phases_are_told_by_the_events(path: Path) -> None:
    run = Folder(path, sites=2)
    run.start()
    for number in range(2):
        run.begin(number)
        began = run.clock
        run.clock = began + 1
        run.answer(number, "site-1", {})
        run.clock = began + 3
        run.answer(number, "site-2", {})
        run.settle(number, {})
        run.clock = began + 7
    run.begin(2)
    run.end("aborted", "aborted by its user")
    times = Chronicle(path).times_of_training()
    for number in range(2):
        began, *marks = times[number]
        assert [mark - began for mark in marks] == pytest.approx([1, 3, 7], abs=0.01)
    began, first, last, ended = times[2]
    assert first == last == ended


def test_a_page_of_50000_rows_is_a_few_megabytes_and_says_what_is_left_out(path: Path) -> None:
    run = trained(path, rounds=5, sites=10_000)
    run.end()
    page = page_of(run)
    assert (path / "report.html").stat().st_size < 7_000_000
    assert page.data["data-rows"] == "50005"
    assert page.data["data-complete"] == "false"
    rows = rows_of(run)
    assert [row for row in page.rows if row["site"] == "global"] == [
        row for row in rows if row["site"] == "global"
    ]
    kept = {row["site"] for row in page.rows}
    assert page.rows == [row for row in rows if row["site"] in kept]  # whole sites
    assert len(kept) > 1000
    assert f"{len(page.rows):,} of 50,005 rows of metrics.jsonl are in this page" in page.text


def test_very_many_rounds_and_metrics_stay_bounded(path: Path) -> None:
    run = Folder(path, rounds=5000, sites=2)
    run.start()
    for number in range(5000):
        run.begin(number)
        metrics = {f"metric-{kind}": float(number) for kind in range(3)}
        run.answer(number, "site-1", metrics)
        run.settle(number, metrics)
    run.begin(5000)
    run.settle(5000, {f"other-{kind}": 1.0 for kind in range(500)})
    run.end()
    text = write_report(path).read_text()
    assert len(text) < 5_000_000
    assert "more metrics are in metrics.jsonl" in Page(text).text


# At a run's end, and in a notebook ----------------------------------------------


def test_at_the_end_of_a_run_a_report_that_cannot_be_made_is_told_not_raised(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(path)
    run.end()
    assert report_at_end(path) == ""
    assert (path / "report.html").is_file()
    (path / "report.html").unlink()
    (path / "report.html").mkdir()
    assert report_at_end(path).startswith("no report.html: IsADirectoryError")
    assert not (path / "report.html.new").exists()
    monkeypatch.setattr(report, "_MOST_AT_END_BYTES", 1000)
    assert report_at_end(path) == f"report.html is made by: covey report {path.name}"


def test_a_plot_is_a_fragment_with_its_own_style(path: Path) -> None:
    run = trained(path)
    plot = Plot(path)
    assert repr(plot) == f"<Plot of digits/{path.name}: accuracy, loss>"
    html = plot._repr_html_()
    page = Page(html)
    assert page.elements <= ELEMENTS - {"html", "head", "body", "script", "link", "meta"}
    assert "Time of a round" in page.text
    assert "body{" not in html.replace("body.covey{", "")
    run.journal.close()


def test_a_plot_of_one_metric_shows_that_one(path: Path) -> None:
    run = trained(path)
    run.journal.close()
    page = Page(Plot(path, "loss")._repr_html_())
    assert "loss" in page.text
    assert "accuracy" not in page.text
    assert "Time of a round" not in page.text


def test_a_plot_before_anything_was_measured_says_so(path: Path) -> None:
    run = Folder(path)
    run.journal.close()
    assert "Nothing has been measured yet." in Plot(path)._repr_html_()
    assert repr(Plot(path)).endswith(": no metrics>")


def test_trainings_and_evaluations_of_a_site_have_times_of_their_own(tmp_path: Path) -> None:
    run = Folder(tmp_path / "1-aa", rounds=2, sites=2)
    run.start()
    for number in range(2):
        run.begin(number)
        for site in run.sites:
            run.answer(number, site, {"accuracy": 0.5}, seconds=0.25 + number)
        run.settle(number, {"accuracy": 0.5})
    run.begin(2, "evaluate")
    run.answer(2, "site-1", {"accuracy": 0.5}, seconds=8.0, task="evaluate")
    run.settle(2, {"accuracy": 0.5}, task="evaluate")
    run.journal.close()
    first, second = Chronicle(run.path).sites
    assert (first.answers, first.seconds) == (2, 1.5)
    assert (first.evaluations, first.evaluating_s) == (1, 8.0)
    assert (second.answers, second.evaluations) == (2, 0)
    page = write_report(run.path).read_text()
    sites = re.sub(r"<[^>]*>", " ", page.partition("<h2>Sites</h2>")[2].partition("</section>")[0])
    heads = "site trained mean time (s) evaluated mean time (s) failures last weight"
    assert " ".join(sites.split()).startswith(heads)
    assert "site-1 2 0.75 1 8 100" in " ".join(sites.split())
    assert "site-2 2 0.75 0 100" in " ".join(sites.split())
