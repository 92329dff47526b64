"""What a run looks like on a terminal: a line per round or version, and last lines to look back on.

Here: turning events into lines, plain or above a progress bar. Not here: the events themselves
(`covey.actors.observe`), the drawing of bars (`bars.py`), what scripts print (it arrives as text
and is passed on).

Nothing in here may end a run: a terminal that has gone away is written to no more.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TextIO
from weakref import WeakSet

from covey.actors.observe.events import EventKind, RunEvent

from .failures import Failures, first_line, in_round
from .folder import FRESH, short, workspace_of

if TYPE_CHECKING:
    from .bars import Bar
    from .live import Board

#: More than this do not fit beside each other on a terminal of 100 columns.
_MAX_METRICS: Final = 4

#: Of the sites that fail in one round this many are named in its line.
_MAX_FAILURES: Final = 3

#: The first line that names what is awaited comes with the first event about it (5 s); within a
#: run each further one takes twice as long, so that a round of an hour does not fill the screen.
_FIRST_WAIT_S: Final = 5.0
#: From here on a wait may be a hang, and the line says where to look.
_HINT_S: Final = 20.0

#: A bar is redrawn ten times a second; updating it more often only costs time.
_BAR_EVERY_S: Final = 0.1

#: Lines of versions, in asynchronous training, come at most this often.
_VERSION_EVERY_S: Final = 0.5


#: How the folder of a kind of tracking is looked at.
_LOOK_AT: Final = {
    "tensorboard": "tensorboard --logdir {}",
    "mlflow": "mlflow ui --backend-store-uri sqlite:///{}/mlflow.db",
    "wandb": "wandb leet {}",
}


class Console:
    """Shows a run; subscribe it to the run's journal.

    On a terminal a progress bar stands below the lines, and above it what each site does, if that
    is asked for. Where output is piped, in a notebook, and with `NO_COLOR` set, there are plain
    lines and no control codes. Script output arrives by `write`. Two runs at once prefix their
    lines with the run's name.

    Args:
        stream: Where to write; None is standard output as it is when the console is made.
        verbose: Show each site's answer too.
        bar: Whether a bar may be drawn; False where a debugger needs the terminal.
        live: Sites that are shown one by one while they work, above the bar.
        failures: End a failed run with what the script raised. False when the caller raises an
            error that says it, so that it is said once.
        fresh: What a user adds to the command for a run not to be resumed.
    """

    #: Weak: a run that was given up without an end is not beside anybody.
    _open: ClassVar[WeakSet[Console]] = WeakSet()

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        verbose: bool = False,
        failures: bool = True,
        bar: bool = True,
        live: Sequence[str] = (),
        fresh: str = FRESH,
    ) -> None:
        self._stream = _behind_bars(sys.stdout) if stream is None else stream
        self._verbose = verbose
        self._may_draw = bar
        self._failures = failures
        self._live = live
        self._fresh = fresh
        self._board: Board | None = None
        self._bar: Bar | None = None
        self._bar_at = 0.0
        self._versions = _Versions()
        self._dead = False
        self._state = _State()

    def __repr__(self) -> str:
        state = "gone" if self._dead else "bar" if self._bar else "plain"
        return f"<Console {self._state.name or 'before the run'}, {state}>"

    def __call__(self, event: RunEvent) -> None:
        """Show one event. Never raises for a terminal that has gone away."""
        if self._board is not None:
            self._board(event)
        show = _SHOW.get(event.kind)
        if show is not None:
            show(self, event)

    def write(self, text: str) -> None:
        """Show whole lines of a script's output, each with its line end."""
        self._put(text.removesuffix("\n"))

    def close(self) -> None:
        """Take the bar down, whatever came of the run; idempotent."""
        self._open.discard(self)
        if self._bar is not None:
            self._bar.close()
            self._bar = self._board = None

    def _started(self, event: RunEvent) -> None:
        data = event.data
        self._state.start(event)
        self._open.add(self)
        if self._may_draw and is_terminal(self._stream):
            from .bars import Bar  # rich takes a tenth of a second, and only a terminal needs it
            from .live import Board

            self._board = Board(self._live, self._state.unit) if self._live else None
            self._bar = Bar(self._stream, self._state.name, self._state.rounds, self._board)
        resumed, unit = data.get("resumed_round"), self._state.unit
        if resumed is not None:
            where = f"{unit} {resumed}"
            self._line(f"resuming an unfinished run at {where} ({self._fresh} starts over)")
        sites, rounds = _count(data.get("sites"), "site"), _count(data.get("rounds"), unit)
        if not self._state.trains:
            rounds = "evaluation alone"
        self._line(f"{self._state.name}: {sites}, {rounds}, seed {data.get('seed')}")

    def _round_started(self, event: RunEvent) -> None:
        self._state.start_round(event)
        self._draw(event, now=True)

    def _site_finished(self, event: RunEvent) -> None:
        self._state.answered += 1
        if self._verbose:
            data = event.data
            parts = [_metrics(data.get("metrics", {})), _seconds(data.get("seconds"))]
            self._line(_joined(f"  {event.site}", *parts))
        self._draw(event)

    def _site_failed(self, event: RunEvent) -> None:
        if self._state.failures.add(event):
            where = in_round(event, self._state.unit)
            self._line(f"{event.site} failed{where}: {first_line(event.data)}", "red")

    def _others_failed(self) -> None:
        for text in self._state.failures.others(self._state.everyone):
            self._line(text, "red")

    def _waiting(self, event: RunEvent) -> None:
        text = self._state.waiting_for(event.data)
        if self._bar is not None:
            self._bar.update(self._state.rounds_done, text)
        elif self._state.wait_is_due(event):
            self._line(text)

    def _round_finished(self, event: RunEvent) -> None:
        if "staleness" in event.data:
            self._version_finished(event)
            return
        self._last_version()
        data = event.data
        what = f"{self._state.unit} {event.round}"
        if data.get("task") == "evaluate":
            what = f"{what} (final model)" if self._state.trains else "evaluation"
        self._state.finish_round(event)
        self._others_failed()
        self._line(
            _joined(
                what,
                _sites(data, self._state.failures.sites),
                _metrics(data.get("metrics", {})),
                _seconds(data.get("seconds")),
                _virtual(data),
                _transferred(data.get("bytes")),
            )
        )
        self._draw(event, now=True)

    def _version_finished(self, event: RunEvent) -> None:
        """Of asynchronous training: thousands of versions a second are a few lines."""
        self._state.finish_round(event)
        if self._verbose or self._versions.is_due(event):
            self._version(event)
        self._draw(event)

    def _last_version(self) -> None:
        """No version comes any more, or none for long: show the last one."""
        last, untold = self._versions.end()
        if last is not None:
            self._version(last)
        if untold:
            are = "version is" if untold == 1 else "versions are"
            self._line(f"{untold} more {are} in metrics.jsonl")

    def _version(self, event: RunEvent) -> None:
        data = event.data
        self._line(
            _joined(
                f"version {event.round}",
                _updates(data),
                f"staleness {data['staleness']:.3g}",
                _metrics(data.get("metrics", {})),
                _virtual(data) or _seconds(data.get("seconds")),
            )
        )

    def _finished(self, event: RunEvent) -> None:
        if event.data.get("status") == "failed":
            self._others_failed()
        self._last_version()
        prefix = self._prefix()  # as it was while other runs were beside this one
        self.close()
        for text, style in self._state.closing(event, self._failures):
            self._put(f"{prefix}{text}", style)

    def _notice(self, event: RunEvent) -> None:
        self._line(str(event.data.get("text", "")))

    def _draw(self, event: RunEvent, now: bool = False) -> None:
        if self._bar is not None and (now or event.time - self._bar_at >= _BAR_EVERY_S):
            self._bar_at = event.time
            self._bar.update(self._state.rounds_done, self._state.progress())

    def _line(self, text: str, style: str = "") -> None:
        self._put(f"{self._prefix()}{text}", style)

    def _prefix(self) -> str:
        return f"{self._state.name}  " if len(self._open) > 1 else ""

    def _put(self, text: str, style: str = "") -> None:
        if self._dead:
            return
        try:
            if self._bar is not None:
                self._bar.print(text, style)
            else:
                _write(self._stream, text)
        except (OSError, ValueError):  # a closed pipe, a closed file
            self._dead = True


_SHOW: Final[Mapping[EventKind, Callable[[Console, RunEvent], None]]] = {
    EventKind.RUN_STARTED: Console._started,
    EventKind.ROUND_STARTED: Console._round_started,
    EventKind.SITE_FINISHED: Console._site_finished,
    EventKind.SITE_FAILED: Console._site_failed,
    EventKind.WAITING: Console._waiting,
    EventKind.ROUND_FINISHED: Console._round_finished,
    EventKind.RUN_FINISHED: Console._finished,
    EventKind.NOTICE: Console._notice,
}


class _Versions:
    """Which versions of asynchronous training have a line: some, in their order, and the last.

    They end when the last site that had them has answered, and not in their order.
    """

    def __init__(self) -> None:
        self._shown_at = 0.0
        self._shown = -1
        self._held: RunEvent | None = None
        self._untold = 0

    def is_due(self, event: RunEvent) -> bool:
        """Whether a version has a line at once; else the newest of those that have none waits."""
        number = _number(event)
        later = number > self._shown
        if later and event.time - self._shown_at >= _VERSION_EVERY_S:
            self._shown, self._shown_at = number, event.time
            return True
        self._untold += 1
        if later and (self._held is None or number > _number(self._held)):
            self._held = event
        return False

    def end(self) -> tuple[RunEvent | None, int]:
        """The version that waits for its line, and how many others have none; begin anew."""
        held, untold = self._held, self._untold
        self._held, self._untold = None, 0
        if held is None or _number(held) <= self._shown:
            return None, untold
        self._shown = _number(held)
        return held, untold - 1


def _number(event: RunEvent) -> int:
    return -1 if event.round is None else event.round


class _State:
    """What of a run's past its lines need."""

    def __init__(self) -> None:
        self.name = ""
        self.rounds = 0
        self.unit = "round"
        self.trains = True
        self.rounds_done = 0
        self.answered = 0
        self.failures = Failures()
        self.everyone = 0
        self._started_at = 0.0
        self._sites = 0
        self._round: int | None = None
        self._folder: Path | None = None
        self._wait_s = _FIRST_WAIT_S
        self._waited_in: tuple[int | None, Any] = (None, None)
        self._metrics: dict[int, Mapping[str, float]] = {}

    def start(self, event: RunEvent) -> None:
        data = event.data
        self._started_at = event.time
        self.name = str(data.get("name", ""))
        self.rounds = int(data.get("rounds") or 0)
        self.unit = str(data.get("unit") or "round")
        self.failures = Failures(self.unit)
        self.trains = data.get("task") != "evaluate"
        self.everyone = int(data.get("sites") or 0)
        self.rounds_done = int(data.get("resumed_round") or 0)
        folder = data.get("folder")
        self._folder = Path(folder) if folder else None

    def start_round(self, event: RunEvent) -> None:
        self._round = event.round
        self._sites = int(event.data.get("sites") or 0)
        self.answered = 0
        self.failures.begin_round()

    def finish_round(self, event: RunEvent) -> None:
        if event.round is not None:
            self.rounds_done = min(event.round + 1, self.rounds)
            # Both a training round and the evaluation after it measure the model of that number.
            known = self._metrics.setdefault(event.round, {})
            self._metrics[event.round] = {**known, **event.data.get("metrics", {})}

    def progress(self) -> str:
        if self._round is None:
            return f"version {self.rounds_done}: {_count(self.answered, 'update')}"
        what = f"{self.unit} {self._round}" if self.trains else "evaluation"
        return f"{what}: {self.answered} of {_count(self._sites, 'site')}"

    def waiting_for(self, data: Mapping[str, Any]) -> str:
        names = [str(name) for name in data.get("sites", ())]
        more = int(data.get("count") or len(names)) - len(names)
        whom = ", ".join(names) + (f" and {more} more" if more > 0 else "")
        task = data.get("task", "train")
        in_round = self._round is not None and self.trains
        where = f"{task}, {self.unit} {self._round}" if in_round else str(task)
        seconds = float(data.get("seconds") or 0)
        hint = "; see logs/, and task_timeout=" if seconds >= _HINT_S else ""
        return f"waiting for {whom or 'sites'} ({where}), {seconds:.0f} s{hint}"

    def wait_is_due(self, event: RunEvent) -> bool:
        """Once in each round, and then only after twice the longest wait shown in this run."""
        seconds = float(event.data.get("seconds") or 0)
        where = (event.round if event.round is not None else self._round, event.data.get("task"))
        first = where != self._waited_in and seconds >= _FIRST_WAIT_S
        if not first and seconds < self._wait_s:
            return False
        self._waited_in = where
        self._wait_s = max(self._wait_s, 2 * seconds)
        return True

    def closing(self, event: RunEvent, failures: bool) -> list[tuple[str, str]]:
        """The last lines, with their colours."""
        data = event.data
        status = str(data.get("status", ""))
        completed = status == "completed"
        seconds = _seconds(data.get("seconds", event.time - self._started_at))
        stopped = data.get("stopped_by")
        if status == "aborted" and str(data.get("error", "")).startswith("interrupted"):
            status = "interrupted"
        early = f" of {self.rounds}, stopped by {stopped}," if stopped else ""
        rounds = _count(data.get("rounds"), self.unit) if self.trains else self._measured()
        done = f"{rounds}{early} in {seconds}"
        if "virtual_s" in data:
            done += f", {data['virtual_s']:.4g} s in virtual time"
        lines = [(f"status: {status}, {done}", "green" if completed else "red")]
        if completed:
            lines += [(text, "red") for text in self.failures.closing()]
        if self._folder is not None:
            over = status != "interrupted"
            lines += [(text, "") for text in self._where_to_look(self._folder, data, over)]
        if not completed and failures:
            lines += [(text, "red") for text in failure_block(data)]
        return lines

    def _measured(self) -> str:
        """What came of a run that trains nothing."""
        return f"{_count(self.answered, 'site')} measured the model"

    def _where_to_look(self, folder: Path, data: Mapping[str, Any], over: bool) -> list[str]:
        lines = [f"result: {short(folder)}"]
        best = data.get("best_round") if self.trains else None
        if best is not None and (folder / "best_model.safetensors").exists():
            lines.append(f"best model: {self._best(int(best), data)}, best_model.safetensors")
        report = ["report.html"] if over else []
        places = ((command, folder / "tracking" / kind) for kind, command in _LOOK_AT.items())
        look = [command.format(short(place)) for command, place in places if place.is_dir()]
        lines.append(f"look closer: {'; '.join([*report, _runs_command(folder), *look])}")
        return lines

    def _best(self, round_: int, data: Mapping[str, Any]) -> str:
        value = data.get("best_value")
        if value is None:
            return f"{self.unit} {round_}"
        names = [name for name, v in self._metrics.get(round_, {}).items() if v == value]
        key = data.get("key_metric") or (names[0] if names else "metric")
        return f"{self.unit} {round_} ({key} {value:.4g})"


def _runs_command(folder: Path) -> str:
    """The command that lists this run, as typed from where the user is."""
    workspace = folder.parent.parent
    if workspace.resolve() == workspace_of(None).resolve():
        return "covey runs"
    return f"covey runs --workspace {shlex.quote(short(workspace))}"


def failure_block(data: Mapping[str, Any]) -> list[str]:
    """Why a run failed; where a script raised, its own file and line last."""
    lines = str(data.get("error") or "").splitlines()
    if data.get("file"):
        lines.append(f'  File "{data["file"]}", line {data.get("line")}')
        if data.get("source_line"):
            lines.append(f"    {data['source_line']}")
    return lines


def is_terminal(stream: TextIO) -> bool:
    """Whether a bar may be drawn: a terminal that understands it, and no wish for plain text."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    with suppress(AttributeError, ValueError):  # closed, or not quite a file
        return stream.isatty()
    return False


def _behind_bars(stream: TextIO) -> TextIO:
    """The terminal itself, where the bar of another run stands in for it."""
    proxied: TextIO = getattr(stream, "rich_proxied_file", stream)
    return proxied


def size(count: float | None) -> str:
    """A number of bytes for people."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _transferred(count: float | None) -> str:
    """Models that were sent to sites, and updates that came from them."""
    return "" if count is None else f"{size(count)} transferred"


def _sites(data: Mapping[str, Any], failed_sites: list[str]) -> str:
    ok, failed = data.get("ok", 0), data.get("failed", 0)
    if not failed:
        return f"{ok} ok"
    names = f" ({', '.join(failed_sites[:3])})" if 0 < len(failed_sites) <= _MAX_FAILURES else ""
    return f"{ok} ok, {failed} failed{names}"


def _updates(data: Mapping[str, Any]) -> str:
    """How many updates have come of a version, and how many of its tasks came to nothing."""
    failed = data.get("failed", 0)
    return _count(data.get("ok", 0), "update") + (f", {failed} failed" if failed else "")


def _virtual(data: Mapping[str, Any]) -> str:
    """When a model was there, in virtual time."""
    return f"at virtual {data['virtual_s']:.4g} s" if "virtual_s" in data else ""


def _metrics(metrics: Mapping[str, float]) -> str:
    shown = [f"{name} {value:.4g}" for name, value in list(metrics.items())[:_MAX_METRICS]]
    if len(metrics) > _MAX_METRICS:
        shown.append(f"+{len(metrics) - _MAX_METRICS}")
    return "  ".join(shown)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _count(number: int | None, noun: str) -> str:
    return f"{number or 0} {noun}{'' if number == 1 else 's'}"


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text + "\n")
    except UnicodeEncodeError:  # a terminal that is not UTF-8 shows what it can
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
