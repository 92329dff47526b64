"""What a run's folder tells, read back: as much of it as pictures need.

Here: `metrics.jsonl`, `logs/server.jsonl`, `summary.json` and `config.json` as columns and short
lists. Not here: arithmetic on them (`curves.py`), drawing (`charts.py`, `report.py`).

The run may be under way, or cut off in the middle of a line: a line that cannot be read is
skipped. Files are read in blocks and only columns of numbers are kept, so that a run of a million
answers fits. Of the log's answers, which are its bulk, only the first and the last of a round are
looked into.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from sys import intern
from typing import Any, Final, NoReturn, cast

from .curves import Thinned, bounded
from .events import EventKind, RunEvent

#: Files that grow with the run.
SOURCES: Final = ("metrics.jsonl", "logs/server.jsonl")

#: Name of all sites together in `metrics.jsonl`.
GLOBAL: Final = "global"

#: Rows of `metrics.jsonl` that a page carries: more would make it slow to open.
MOST_KEPT_BYTES: Final = 6_000_000

#: Failures and notices that are kept one by one; the rest are counted.
MOST_TOLD: Final = 50
#: Curves of one name that scripts streamed; further sites' are left out.
MOST_STREAMED: Final = 8
#: Different names of metrics; a script that makes up names must not fill the memory.
MOST_NAMES: Final = 200

_BLOCK_LINES: Final = 512
_ANSWER: Final = b'["site.finished"'


class Column:
    """One metric.

    Attributes:
        rounds: Round of each value that a site measured, in the order of the file.
        sites: The site's number, beside it.
        values: The value, beside it; NaN where the file has null.
        overall: Value of all sites together, by round.
    """

    __slots__ = ("overall", "rounds", "sites", "values")

    def __init__(self) -> None:
        self.rounds = array("q")
        self.sites = array("q")
        self.values = array("d")
        self.overall: dict[int, float] = {}

    def add(self, round: int, site: int, value: float) -> None:
        """Add what a site measured; raise `OverflowError` for a number that is no round."""
        self.rounds.append(round)
        self.sites.append(site)
        self.values.append(value)


class RoundTimes:
    """When things happened in a round: Unix times in seconds, None for what did not.

    Attributes:
        task: "train" or "evaluate".
        started: When tasks were given out.
        first: The first answer.
        last: The last answer, or the failure of the last that was waited for.
        ended: When whatever came next began.
    """

    __slots__ = ("ended", "first", "last", "started", "task")

    def __init__(self, task: str, started: float) -> None:
        self.task = task
        self.started = started
        self.first: float | None = None
        self.last: float | None = None
        self.ended: float | None = None


class Site:
    """What a site did over the whole run.

    Attributes:
        name: Its name.
        answers: Trainings that count.
        evaluations: Times that it measured a model alone.
        failures: Times that it failed.
        seconds: Time at work, of all trainings together.
        evaluating_s: Time at work, of all evaluations together.
        virtual_s: The same in virtual time, 0 if there is none.
        weight: Its latest weight, None if it told none.
    """

    __slots__ = (
        "answers",
        "evaluating_s",
        "evaluations",
        "failures",
        "name",
        "seconds",
        "virtual_s",
        "weight",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers = 0
        self.evaluations = 0
        self.failures = 0
        self.seconds = 0.0
        self.evaluating_s = 0.0
        self.virtual_s = 0.0
        self.weight: float | None = None


class Chronicle:
    """A run, as its folder tells it.

    Attributes:
        folder: The folder.
        config: `config.json`, empty if it cannot be read.
        summary: `summary.json`, empty while the run is not over.
        started: The event that began it, None before.
        finished: The event that ended it, None before.
        sites: Sites that answered or failed, in the order of their first word.
        metrics: Columns by the metric's name.
        rounds: Times by round and task.
        bytes: Bytes that were sent and received, by round.
        failures: The first failures, as `failed` is their number.
        notices: The first notices, as `noticed` is their number.
        virtual: Virtual seconds of training until each version; empty in real time.
        staleness: How many answers were how many versions old; empty for a run in rounds.
        streamed: Curves that scripts streamed, by name and site.
        rows: Number of rows that could be read.
        kept: Rows of `metrics.jsonl` as they stand there, all of them if `complete`; else those
            of all sites together and of some sites.
    """

    def __init__(self, folder: Path) -> None:
        """Read a run's folder.

        Raises:
            OSError: A file is there that cannot be read.
        """
        self.folder = folder
        self.config = _object(folder / "config.json")
        self.summary = _object(folder / "summary.json")
        self.started: RunEvent | None = None
        self.finished: RunEvent | None = None
        self.sites: list[Site] = []
        self.metrics: dict[str, Column] = {}
        self.rounds: dict[tuple[int, str], RoundTimes] = {}
        self.bytes: dict[int, float] = {}
        self.failures: list[RunEvent] = []
        self.failed = 0
        self.notices: list[RunEvent] = []
        self.noticed = 0
        self.virtual: dict[int, float] = {}
        self.staleness: Counter[int] = Counter()
        self.streamed: dict[str, dict[str, Thinned]] = {}
        self.rows = 0
        self.kept: list[bytes] = []
        self._numbers: dict[str, int] = {}
        self._open: RoundTimes | None = None
        self._last_answer = b""
        # Of answers in asynchronous training, beside each other.
        self._ages = array("q")
        self._took = array("d")
        self._by: list[str] = []
        rows, log = SOURCES
        self._read_rows(folder / rows)
        self._read_log(folder / log)

    @property
    def complete(self) -> bool:
        """Whether every row that could be read is kept."""
        return len(self.kept) == self.rows

    @property
    def settings(self) -> Mapping[str, Any]:
        """The recipe's settings, empty if the configuration does not tell."""
        return mapping(mapping(self.config.get("manifest")).get("settings"))

    @property
    def counted(self) -> str:
        """What a number of the run is: of a "round", or of a "version" in asynchronous training."""
        return "version" if self.staleness or self.told("unit") == "version" else "round"

    def told(self, key: str) -> Any:
        """What the beginning of the run told, None if it did not. Any: JSON."""
        return None if self.started is None else self.started.data.get(key)

    def times_of_training(self) -> dict[int, tuple[float, float, float, float]]:
        """By round: when it began, its first and its last answer, and what came next.

        Unix times in seconds, ascending. What is not known is as late as what came before it; a
        round without any answer has the end for both.
        """
        found: dict[int, tuple[float, float, float, float]] = {}
        for (round_, task), times in self.rounds.items():
            last = times.last or times.ended
            if task == "train" and last is not None:
                first = max(times.started, times.first or last)
                last = max(first, last)
                found[round_] = (times.started, first, last, max(last, times.ended or last))
        return found

    def _site(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self.sites)
            self.sites.append(Site(name))
        return number

    # metrics.jsonl ---------------------------------------------------------

    def _read_rows(self, path: Path) -> None:
        every = math.ceil(_size(path) / MOST_KEPT_BYTES) or 1
        room = 2 * MOST_KEPT_BYTES
        for line, row in _rows(path):
            try:
                site = self._take(row)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                continue
            self.rows += 1
            if site % every == 0 and room > 0:
                self.kept.append(line)
                room -= len(line)

    def _take(self, row: Any) -> int:
        """Take in a row; give its site's number, 0 for all sites together."""
        round_, name, metrics = int(row["round"]), str(row["site"]), row["metrics"]
        if name == GLOBAL:
            for metric, value in metrics.items():
                if column := self._column(metric):
                    column.overall[round_] = _number(value)
            return 0
        number = self._site(name)
        site = self.sites[number]
        if row.get("task") == "evaluate":
            site.evaluations += 1
            site.evaluating_s += row.get("seconds") or 0.0
        else:
            site.answers += 1
            site.seconds += row.get("seconds") or 0.0
        site.weight = row.get("weight", site.weight)
        columns = self.metrics
        for metric, value in metrics.items():
            if column := columns.get(metric) or self._column(metric):
                column.add(round_, number, _number(value))
        return number

    def _column(self, metric: str) -> Column | None:
        column = self.metrics.get(metric)
        if column is None and len(self.metrics) < MOST_NAMES:
            column = self.metrics[metric] = Column()
        return column

    # logs/server.jsonl -----------------------------------------------------

    def _read_log(self, path: Path) -> None:
        with suppress(FileNotFoundError), path.open("rb") as file:
            for line in file:
                if line.startswith(_ANSWER):
                    self._answered(line)
                    continue
                with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
                    self._happened(_event(line))
        self._close_round(None)
        self._sum_up()

    def _answered(self, line: bytes) -> None:
        if self._open is not None:
            if self._open.first is None:
                self._open.first = _time(line)
            self._last_answer = line
        if b'"staleness"' in line:
            with suppress(KeyError, TypeError, ValueError, OverflowError):
                event = _event(line)
                seconds = float(event.data.get("virtual_s", 0.0))
                self._ages.append(int(event.data["staleness"]))
                self._took.append(seconds)
                self._by.append(intern(str(event.site)))

    def _sum_up(self) -> None:
        """How old answers were and how long they took, of those that count."""
        self.staleness = Counter(self._ages)
        for name, seconds in zip(self._by, self._took, strict=True):
            self.sites[self._site(name)].virtual_s += seconds

    def _happened(self, event: RunEvent) -> None:
        match event.kind:
            case EventKind.RUN_STARTED:
                self._begin(event)
            case EventKind.ROUND_STARTED:
                self._close_round(event.time)
                self._open = RoundTimes(str(event.data.get("task", "train")), event.time)
                self.rounds[_round(event), self._open.task] = self._open
            case EventKind.ROUND_FINISHED:
                if self._open is not None:
                    self._open.last = event.time
                self._finish(_round(event), event.data)
            case EventKind.SITE_FAILED:
                self._fail(event)
            case EventKind.NOTICE:
                self.noticed += 1
                if len(self.notices) < MOST_TOLD:
                    self.notices.append(event)
            case EventKind.METRIC:
                self._stream(event)
            case EventKind.RUN_FINISHED:
                self._close_round(event.time)
                self.finished = event
            case _:
                pass

    def _begin(self, event: RunEvent) -> None:
        """A run that goes on does once more what was under way.

        That is a round; in asynchronous training, all but the updates that were in versions.
        """
        self.started, self.finished, self._open = event, None, None
        resumed = event.data.get("resumed_round")
        if resumed is not None:
            self.rounds = {key: t for key, t in self.rounds.items() if key[0] < resumed}
            self.bytes = {round_: b for round_, b in self.bytes.items() if round_ < resumed}
            self.virtual = {round_: t for round_, t in self.virtual.items() if round_ <= resumed}
        if resumed is not None and "resumed_updates" in event.data:
            kept = int(event.data["resumed_updates"] or 0)
            del self._ages[kept:], self._took[kept:], self._by[kept:]

    def _finish(self, round_: int, data: Mapping[str, Any]) -> None:
        """Evaluation counts to the round whose model it measures."""
        self.bytes[round_] = self.bytes.get(round_, 0.0) + float(data["bytes"])
        if "virtual_s" in data:
            self.virtual[round_] = float(data["virtual_s"])

    def _close_round(self, time: float | None) -> None:
        if self._open is None:
            return
        self._open.ended = time
        if self._open.last is None and self._last_answer:
            self._open.last = _time(self._last_answer)
        self._open, self._last_answer = None, b""

    def _fail(self, event: RunEvent) -> None:
        self.failed += 1
        if event.site is not None:
            self.sites[self._site(event.site)].failures += 1
        if len(self.failures) < MOST_TOLD:
            self.failures.append(event)

    def _stream(self, event: RunEvent) -> None:
        data = event.data
        key, site = str(data["key"]), str(event.site)
        if data.get("type", "scalar") != "scalar":
            return
        value = _number(data["value"])
        if key not in self.streamed and len(self.streamed) >= MOST_NAMES:
            return
        curves = self.streamed.setdefault(key, {})
        if site not in curves and len(curves) >= MOST_STREAMED:
            return
        curve = curves.setdefault(site, Thinned())
        step = data.get("step")
        curve.add(float(curve.count if step is None else step), value)


def _rows(path: Path) -> Iterator[tuple[bytes, Any]]:
    """The lines of a file that can be read, and what they say."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        while lines := list(islice(file, _BLOCK_LINES)):
            try:
                found: list[Any] = _decode(b"[" + b",".join(lines) + b"]")
                together = len(found) == len(lines)
            except ValueError:  # one of them was cut off
                together, found = False, []
            yield from zip(lines, found, strict=True) if together else _one_by_one(lines)


def _one_by_one(lines: Iterable[bytes]) -> Iterator[tuple[bytes, Any]]:
    for line in lines:
        with suppress(ValueError):
            yield line, _decode(line)


def _decode(data: bytes) -> Any:
    return json.loads(data, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    """NaN is no JSON, and a browser would not read the page's rows."""
    raise ValueError(constant)


def _number(value: Any) -> float:
    """A value of a metric; raise `TypeError` for what is no number."""
    if value is None:
        return math.nan
    return value if -1.0 < value < 1.0 else bounded(float(value))


def _event(line: bytes) -> RunEvent:
    """An event of the log. Any: JSON."""
    kind, round_, site, time, data = json.loads(line)
    return RunEvent(EventKind(kind), round_, site, data, float(time))


def _time(line: bytes) -> float | None:
    with suppress(KeyError, TypeError, ValueError):
        return _event(line).time
    return None


def _round(event: RunEvent) -> int:
    if not isinstance(event.round, int):
        raise TypeError(event.round)
    return event.round


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object, an empty one for anything else. Any: JSON."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _object(path: Path) -> Mapping[str, Any]:
    with suppress(FileNotFoundError, ValueError):
        return mapping(json.loads(path.read_bytes()))
    return {}
