"""The page of a run: `report.html`, which needs nothing but itself.

Here: what is told of a run, in which order and in which words, from its folder alone. Not here:
reading the folder (`chronicle.py`), its pictures (`pictures.py`), the frame (`page.py`).

A page is a few megabytes at most, whatever the run: curves are thinned, long tables cut, and of a
very large `metrics.jsonl` a part is embedded. The page says where it leaves something out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from . import pictures
from .charts import number
from .chronicle import SOURCES, Chronicle, Site, mapping
from .events import RunEvent
from .page import code, cut, document, embedded, escape, fragment, remark, section, table

#: The file's name in a run's folder.
REPORT: Final = "report.html"

#: What a report made at the end of a run may be made of: some 60,000 answers, half a second.
_MOST_AT_END_BYTES: Final = 16_000_000

#: Sites that have a row of their own.
_MOST_SITES: Final = 24
#: Rows of other tables, and metrics side by side in one.
_MOST_ROWS: Final = 100
_MOST_COLUMNS: Final = 6


def write_report(folder: Path, unfinished: str = "unfinished") -> Path:
    """Write a run's `report.html` from the files of its folder; of an unfinished run too.

    The file is replaced as a whole.

    Args:
        folder: The run's folder.
        unfinished: What to call the state of a run that has no `summary.json`.

    Returns:
        The file.

    Raises:
        OSError: A file of the folder cannot be read, or the report cannot be written.
    """
    text = report_of(Chronicle(folder), unfinished)
    path = folder / REPORT
    replacement = path.with_name(path.name + ".new")
    try:
        replacement.write_bytes(text.encode("utf-8", "replace"))
        replacement.replace(path)
    except OSError:
        replacement.unlink(missing_ok=True)
        raise
    return path


def report_at_end(folder: Path) -> str:
    """Write the report of a run that is over, unless that would hold its end up.

    Returns:
        Why there is no report, "" if there is one. Nothing is raised: a run does not depend on
        its pictures.
    """
    try:
        size = sum((folder / name).stat().st_size for name in SOURCES)
        if size > _MOST_AT_END_BYTES:
            return f"report.html is made by: covey report {folder.name}"
        write_report(folder)
    except Exception as error:  # a fault of ours, or a full disk
        return f"no report.html: {type(error).__name__}: {error}"
    return ""


def report_of(run: Chronicle, unfinished: str = "unfinished") -> str:
    """The page of a run."""
    name = str(run.summary.get("name") or run.told("name") or run.folder.parent.name)
    body = (
        _header(run, name, unfinished)
        + section("Metrics", pictures.of_metrics(run) + _values(run))
        + section(f"{run.counted.title()}s", pictures.of_rounds(run))
        + section("Asynchronous training", pictures.of_asynchrony(run))
        + section("Sites", _sites(run))
        + section("Streamed by scripts", pictures.of_streams(run))
        + section("Failures", _failures(run))
        + section("Notices", _notices(run))
        + section("Settings", _settings(run))
        + _footer(run)
    )
    return document(f"{name}: covey report", body, _data(run))


class Plot:
    """Pictures of a run as a notebook shows them, of the moment when it was made.

    Args:
        folder: The run's folder.
        metric: The only metric to show; None shows all, and the rounds' times.

    Attributes:
        metrics: Names of the metrics that there are.

    Raises:
        OSError: A file of the folder cannot be read.
    """

    def __init__(self, folder: Path, metric: str | None = None) -> None:
        run = Chronicle(folder)
        self.metrics = tuple(pictures.metric_names(run))
        self._name = f"{folder.parent.name}/{folder.name}"
        drawn = pictures.of_metrics(run, metric)
        if metric is None:
            drawn += pictures.of_rounds(run) + pictures.of_asynchrony(run)
        self._html = fragment(drawn or remark("Nothing has been measured yet."))

    def __repr__(self) -> str:
        return f"<Plot of {self._name}: {', '.join(self.metrics) or 'no metrics'}>"

    def _repr_html_(self) -> str:
        return self._html


# The head of the page ------------------------------------------------------


def _header(run: Chronicle, name: str, unfinished: str) -> str:
    status = escape(str(run.summary.get("status") or unfinished))
    where = _plain(run.summary.get("id") or run.config.get("id") or run.folder.name)
    facts = "".join(
        f"<div><dt>{key}</dt><dd>{told}</dd></div>" for key, told in _facts(run) if told
    )
    return (
        f'<header><h1>{escape(name)} <span class="status {status}">{status}</span></h1>\n'
        f'<p class="dim">{where}</p>\n{_error(run)}<dl class="facts">{facts}</dl></header>\n'
    )


def _facts(run: Chronicle) -> Iterable[tuple[str, str]]:
    summary, config = run.summary, run.config
    if run.told("task") == "evaluate":
        yield "Measured", _best(run)
    else:
        yield f"{run.counted.title()}s", _of(summary.get("rounds"), run.told("rounds"))
        yield "Best", _best(run)
    yield "Sites", _plain(run.told("sites") or len(run.sites))
    yield "Seconds", _number(summary.get("seconds"))
    yield "Failures", str(run.failed)
    yield "Stopped by", _plain(summary.get("stopped_by"))
    yield "Seed", _plain(summary.get("seed", config.get("seed")))
    day, _, time = _plain(config.get("created")).partition("T")
    yield "Started", f"{day} <small>{time[:5]} UTC</small>" if time else day


def _of(done: Any, planned: Any) -> str:
    if done is None:
        return "" if planned is None else f"{_plain(planned)} <small>planned</small>"
    return _plain(done) + ("" if planned is None else f" <small>of {_plain(planned)}</small>")


def _best(run: Chronicle) -> str:
    summary = run.summary
    value = _number(summary.get("best_value"))
    key, round_ = _plain(summary.get("key_metric")), _plain(summary.get("best_round"))
    which = "" if run.told("task") == "evaluate" else f", {run.counted} {round_}"
    return f"{value} <small>{key}{which}</small>" if value else ""


def _error(run: Chronicle) -> str:
    """What went wrong, with the user's own file and line."""
    told: Mapping[str, Any] = run.finished.data if run.finished is not None else {}
    text = str(run.summary.get("error") or told.get("error") or "")
    return f'<div class="error">{code(text)}{_place(told)}</div>\n' if text else ""


def _place(data: Mapping[str, Any]) -> str:
    """Where in the user's code something was raised, and the way there."""
    found = ""
    if data.get("file"):
        place = f'File "{data["file"]}", line {data.get("line")}'
        source = data.get("source_line")
        found = code(f"{place}\n    {source}" if source else place)
    trace = str(data.get("traceback") or "")
    return found + (_folded("traceback", code(trace)) if trace else "")


# What follows the pictures -------------------------------------------------


def _values(run: Chronicle) -> str:
    """The values of all sites together, for who reads rather than looks."""
    names = [name for name in pictures.metric_names(run) if run.metrics[name].overall]
    columns = [run.metrics[name].overall for name in names[:_MOST_COLUMNS]]
    rounds = sorted({round_ for column in columns for round_ in column})
    if not rounds:
        return ""
    every = math.ceil(len(rounds) / _MOST_ROWS)
    rows = [
        [str(round_), *(number(column[round_]) if round_ in column else "" for column in columns)]
        for round_ in rounds[::every]
    ]
    caption = "" if every == 1 else f"one {run.counted} of {every}"
    heads = [f"#{run.counted}", *(f"#{name}" for name in names[:_MOST_COLUMNS])]
    return _folded("values of all sites together", table(heads, rows, caption))


def _sites(run: Chronicle) -> str:
    if not run.sites:
        return ""
    many = len(run.sites) > _MOST_SITES
    shown = sorted(run.sites, key=_trouble)[:_MOST_SITES] if many else run.sites
    caption = f"{len(shown)} of {len(run.sites)}: those that failed, then the slowest"
    most = {kind: max(of(site)[0] for site in run.sites) for kind, of in _KINDS.items()}
    kinds = {kind: count for kind, count in most.items() if count}
    heads = ["site"]
    for kind in kinds:
        heads += [f"#{kind}", "", "#mean time (s)"]
    rows = [_site(site, kinds) for site in shown]
    found = table([*heads, "#failures", "#last weight"], rows, caption if many else "")
    return (pictures.of_sites(run) if many else "") + found


def _trainings(site: Site) -> tuple[int, float]:
    return site.answers, site.seconds


def _evaluations(site: Site) -> tuple[int, float]:
    return site.evaluations, site.evaluating_s


#: What sites did: how often, and in how many seconds. Each kind of task takes its own time.
_KINDS: Final = {"trained": _trainings, "evaluated": _evaluations}


def _trouble(site: Site) -> tuple[int, float]:
    """Sites that failed come first, then slow ones."""
    return -site.failures, -(site.seconds / site.answers if site.answers else math.inf)


def _site(site: Site, most: Mapping[str, int]) -> list[str]:
    cells = [escape(cut(site.name))]
    for kind, highest in most.items():
        count, seconds = _KINDS[kind](site)
        cells += [
            str(count),
            '<svg class="share" viewBox="0 0 100 10" aria-hidden="true">'
            f'<rect class="bar c0" width="{100 * count / highest:.0f}" height="10" rx="2"/></svg>',
            number(seconds / count) if count else "",
        ]
    return [*cells, str(site.failures) if site.failures else "", _number(site.weight)]


def _failures(run: Chronicle) -> str:
    rows = [_failure(event) for event in run.failures]
    caption = f"the first {len(rows)} of {run.failed}" if run.failed > len(rows) else ""
    return table(["site", f"#{run.counted}", "what was raised"], rows, caption) if rows else ""


def _failure(event: RunEvent) -> list[str]:
    data = event.data
    what = ": ".join(str(data[key]) for key in ("kind", "text") if data.get(key))
    return [_plain(event.site), _plain(event.round), code(what) + _place(data)]


def _notices(run: Chronicle) -> str:
    told = "".join(f"<p>{_plain(event.data.get('text'))}</p>\n" for event in run.notices)
    more = run.noticed - len(run.notices)
    rest = remark(f"and {more} more") if more else ""
    return f'<div class="card">{told}{rest}</div>\n' if told else ""


def _settings(run: Chronicle) -> str:
    groups = {"recipe": run.settings}
    for name in ("environment", "versions", "git"):
        groups[name] = mapping(run.config.get(name))
    rows = [
        [escape(name), escape(cut(str(key))), f"<code>{escape(cut(str(value)))}</code>"]
        for name, group in groups.items()
        for key, value in list(group.items())[:_MOST_ROWS]
    ]
    return _folded("what it was run with", table(["", "setting", "value"], rows)) if rows else ""


def _footer(run: Chronicle) -> str:
    rows = f"All {run.rows:,} rows" if run.complete else f"{len(run.kept):,} of {run.rows:,} rows"
    text = f"{rows} of metrics.jsonl are in this page too, as JSON. Made anew by: covey report"
    return f"<footer>{remark(f'{text} {run.folder.name}')}</footer>\n"


def _data(run: Chronicle) -> str:
    rows = b"[" + b",\n".join(line.strip() for line in run.kept) + b"]"
    complete = "true" if run.complete else "false"
    return embedded("metrics", rows, f' data-rows="{run.rows}" data-complete="{complete}"')


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>{body}</details>\n"


def _plain(value: Any) -> str:
    return "" if value is None else escape(cut(str(value)))


def _number(value: Any) -> str:
    return number(float(value)) if isinstance(value, int | float) else _plain(value)
