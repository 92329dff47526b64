"""What a run looks like: plain lines when piped, a bar on a terminal, a failure's cause last."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pytest

from covey.actors.observe.events import EventKind, RunEvent
from covey.recipes import bars
from covey.recipes.console import Console, size

FAILURE: dict[str, Any] = {
    "kind": "ValueError",
    "text": "bad batch",
    "file": "/elsewhere/client.py",
    "line": 41,
    "source_line": 'raise ValueError("bad batch")',
    "traceback": "Traceback ...",
}


class Story:
    """Makes the events of a run and hands them to a console."""

    def __init__(self, console: Callable[[RunEvent], None], folder: Path | None = None) -> None:
        self.console = console
        self.folder = folder
        self.clock = 1000.0

    def tell(
        self, what: EventKind, round_: int | None = None, who: str | None = None, /, **data: Any
    ) -> None:
        self.clock += 1
        self.console(RunEvent(what, round_, who, data, self.clock))

    def start(self, name: str = "digits", rounds: int = 10, **data: Any) -> None:
        folder = str(self.folder) if self.folder else None
        self.tell(
            EventKind.RUN_STARTED, name=name, rounds=rounds, sites=2, seed=7, folder=folder, **data
        )

    def round(self, number: int, ok: int = 2, failed: int = 0, task: str = "train") -> None:
        self.tell(EventKind.ROUND_STARTED, number, sites=ok + failed, task=task)
        for site in range(ok):
            metrics = {"accuracy": number / 10}
            self.tell(
                EventKind.SITE_FINISHED,
                number,
                f"site-{site + 1}",
                task=task,
                weight=1.0,
                seconds=0.25,
                bytes=1000,
                metrics=metrics,
            )
        for site in range(failed):
            name = f"site-{ok + site + 1}"
            self.tell(EventKind.SITE_FAILED, number, name, fatal=False, **FAILURE)
        self.tell(
            EventKind.ROUND_FINISHED,
            number,
            task=task,
            ok=ok,
            failed=failed,
            seconds=1.25,
            bytes=181_000,
            metrics={"accuracy": number / 10},
            best=True,
        )

    def version(self, number: int, after: float = 0.001) -> None:
        """A version of asynchronous training ends, so many seconds after what came before."""
        self.clock += after - 1
        self.tell(
            EventKind.ROUND_FINISHED,
            number,
            task="train",
            ok=3,
            failed=0,
            seconds=0.5,
            bytes=1000,
            metrics={"accuracy": number / 100},
            best=True,
            staleness=1.5,
        )

    def wait(self, seconds: float) -> None:
        names = ("site-1", "site-2")
        self.tell(EventKind.WAITING, task="train", sites=names, count=4, seconds=seconds)

    def finish(self, status: str = "completed", **data: Any) -> None:
        defaults: dict[str, Any] = {"error": None, "site": None, "seconds": 12.3, "rounds": 10}
        self.tell(EventKind.RUN_FINISHED, status=status, **{**defaults, **data})


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def nobody_beside() -> None:
    Console._open.clear()


def lines(out: io.StringIO) -> list[str]:
    return out.getvalue().splitlines()


def test_a_round_is_one_line_with_sites_metrics_seconds_and_bytes(out: io.StringIO) -> None:
    story = Story(Console(out))
    story.start()
    story.round(3)
    story.finish()
    assert lines(out)[0] == "digits: 2 sites, 10 rounds, seed 7"
    assert lines(out)[1] == "round 3  2 ok  accuracy 0.3  1.2 s  181 KB transferred"


def shown_versions(out: io.StringIO) -> list[int]:
    return [int(line.split()[1]) for line in lines(out) if line.startswith("version ")]


def test_of_many_versions_some_are_shown_in_their_order_and_the_last(out: io.StringIO) -> None:
    story = Story(Console(out))
    story.start(rounds=40)
    for number in range(40):
        story.version(number, after=0.1)
    story.finish()
    assert shown_versions(out) == [0, 5, 10, 15, 20, 25, 30, 35, 39]
    shown = lines(out)[-3:-1]
    assert shown[0] == "version 39  3 updates  staleness 1.5  accuracy 0.39  500 ms"
    assert shown[1] == "31 more versions are in metrics.jsonl"


def test_a_burst_of_versions_ends_with_the_newest_however_they_come(out: io.StringIO) -> None:
    story = Story(Console(out))
    story.start(rounds=20)
    for number in (1, 0, 2, 5, 4, 3):
        story.version(number)
    story.finish()
    assert shown_versions(out) == [1, 5]
    assert "4 more versions are in metrics.jsonl" in lines(out)


def test_slow_versions_are_all_shown_and_none_out_of_order(out: io.StringIO) -> None:
    story = Story(Console(out))
    story.start(rounds=4)
    for number in (0, 2, 1, 3):
        story.version(number, after=60.0)
    story.finish()
    assert shown_versions(out) == [0, 2, 3]
    assert lines(out)[-2] == "1 more version is in metrics.jsonl"


def test_where_all_versions_are_shown_there_are_no_more(out: io.StringIO) -> None:
    story = Story(Console(out))
    story.start(rounds=2)
    story.version(0, after=60.0)
    story.version(1)
    story.finish()
    assert shown_versions(out) == [0, 1]
    assert "metrics.jsonl" not in out.getvalue()


def test_the_last_version_comes_before_the_evaluation_of_the_final_model(
    out: io.StringIO,
) -> None:
    story = Story(Console(out))
    story.start(rounds=3, unit="version")
    for number in range(3):
        story.version(number)
    story.round(3, task="evaluate")
    story.finish()
    assert [line.split("  ")[0] for line in lines(out)[1:-1]] == [
        "version 0",
        "version 2",
        "1 more version is in metrics.jsonl",
        "version 3 (final model)",
    ]


def test_an_asynchronous_run_is_told_in_versions_from_its_first_line_to_its_last(
    out: io.StringIO, tmp_path: Path
) -> None:
    (tmp_path / "best_model.safetensors").touch()
    story = Story(Console(out), tmp_path)
    story.start(unit="version", resumed_round=4)
    story.tell(EventKind.SITE_FAILED, 4, "site-2", fatal=False, **FAILURE)
    story.version(9)
    story.tell(EventKind.ROUND_STARTED, 10, sites=4, task="evaluate")
    story.wait(5.0)
    story.round(10, task="evaluate")
    story.finish(best_round=10, best_value=1.0)
    told = out.getvalue()
    for text in (
        "resuming an unfinished run at version 4 ",
        "digits: 2 sites, 10 versions, seed 7\n",
        "site-2 failed on version 4: ",
        "(train, version 10), 5 s\n",
        "version 10 (final model)  ",
        "status: completed, 10 versions in ",
        "best model: version 10 (accuracy 1), ",
    ):
        assert text in told, told
    assert not re.search(r"\brounds?\b", told), told


def test_verbose_shows_every_version_as_it_ends(out: io.StringIO) -> None:
    story = Story(Console(out, verbose=True))
    story.start(rounds=3)
    for number in (1, 0, 2):
        story.version(number)
    story.finish()
    assert shown_versions(out) == [1, 0, 2]
    assert "metrics.jsonl" not in out.getvalue()


def test_ten_slow_rounds_take_at_most_thirty_lines(out: io.StringIO, tmp_path: Path) -> None:
    story = Story(Console(out), tmp_path)
    story.start()
    for number in range(10):
        for seconds in range(5, 65, 5):
            story.wait(float(seconds))
        story.round(number)
    story.round(10, task="evaluate")
    story.finish(best_round=10, best_value=1.0)
    assert len(lines(out)) <= 30
    assert "\x1b" not in out.getvalue()


def test_the_first_silence_names_what_is_awaited(out: io.StringIO) -> None:
    story = Story(Console(out))
    story.start()
    story.tell(EventKind.ROUND_STARTED, 2, sites=4, task="train")
    story.wait(5.0)
    assert lines(out)[-1] == "waiting for site-1, site-2 and 2 more (train, round 2), 5 s"
    story.wait(10.0)
    story.wait(15.0)
    assert len(lines(out)) == 3, "said again after twice the time, not every five seconds"


def test_the_evaluation_after_the_last_round_is_told_from_a_round(out: io.StringIO) -> None:
    story = Story(Console(out))
    story.start()
    story.round(10, task="evaluate")
    assert lines(out)[-1].startswith("round 10 (final model)  2 ok  accuracy 1")


def test_the_last_lines_say_status_folder_best_model_and_how_to_look_closer(
    out: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "covey_runs" / "digits" / "1"
    (folder / "tracking" / "tensorboard").mkdir(parents=True)
    (folder / "best_model.safetensors").touch()
    story = Story(Console(out), folder)
    story.start()
    story.round(9)
    story.finish(best_round=9, best_value=0.9)
    assert lines(out)[-4:] == [
        "status: completed, 10 rounds in 12.3 s",
        "result: covey_runs/digits/1",
        "best model: round 9 (accuracy 0.9), best_model.safetensors",
        "look closer: report.html; covey runs; "
        "tensorboard --logdir covey_runs/digits/1/tracking/tensorboard",
    ]


def test_each_kind_of_tracking_says_how_it_is_looked_at(
    out: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("wandb", "mlflow"):
        (tmp_path / "run" / "tracking" / kind).mkdir(parents=True)
    story = Story(Console(out), tmp_path / "run")
    story.start()
    story.finish()
    mlflow = "mlflow ui --backend-store-uri sqlite:///run/tracking/mlflow/mlflow.db"
    assert lines(out)[-1].endswith(f"; {mlflow}; wandb leet run/tracking/wandb")


def test_a_run_in_another_workspace_is_listed_from_there(
    out: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    story = Story(Console(out), tmp_path / "my runs" / "digits" / "1")
    story.start()
    story.finish()
    assert lines(out)[-1] == "look closer: report.html; covey runs --workspace 'my runs'"
    monkeypatch.setenv("COVEY_WORKSPACE", "my runs")
    story.start()
    story.finish()
    assert lines(out)[-1] == "look closer: report.html; covey runs"


def test_a_site_that_fails_while_the_run_goes_on_is_named_with_its_line_at_the_end(
    out: io.StringIO,
) -> None:
    story = Story(Console(out))
    story.start()
    story.round(2, ok=2, failed=1)
    assert lines(out)[-2:] == [
        "site-3 failed in round 2: ValueError: bad batch",
        "round 2  2 ok, 1 failed (site-3)  accuracy 0.2  1.2 s  181 KB transferred",
    ]
    story.finish()
    assert lines(out)[-1] == (
        "failed: site-3 in round 2: ValueError: bad batch (/elsewhere/client.py, line 41)"
    )


def test_failures_that_are_alike_are_told_once_and_counted(out: io.StringIO) -> None:
    story = Story(Console(out))
    story.start()
    story.round(0, ok=1, failed=60)
    story.finish()
    assert lines(out)[1:4] == [
        "site-2 failed in round 0: ValueError: bad batch",
        "site-3, site-4, site-5 and 56 more failed in round 0 as site-2 did",
        "round 0  1 ok, 60 failed  accuracy 0  1.2 s  181 KB transferred",
    ]
    assert lines(out)[5:] == [
        "failed: site-2 in round 0: ValueError: bad batch (/elsewhere/client.py, line 41); "
        "so did site-3, site-4, site-5 and 56 more"
    ]


def test_many_different_failures_are_counted_not_listed(out: io.StringIO) -> None:
    story = Story(Console(out))
    story.start()
    story.tell(EventKind.ROUND_STARTED, 0, sites=26, task="train")
    for letter in "abcdefghijklmnopqrstuvwxyz":
        failure = FAILURE | {"text": f"no {letter}{letter}"}
        story.tell(EventKind.SITE_FAILED, 0, "site-1", fatal=False, **failure)
    story.finish()
    assert [line.partition(": ")[2] for line in lines(out)[1:4]] == [
        f"ValueError: no {letter}{letter}" for letter in "abc"
    ]
    assert len(lines(out)) == 1 + 3 + 1 + 3 + 1
    assert lines(out)[-1] == "and 23 more, see summary.json"


def test_a_site_that_fails_again_and_again_is_told_once_and_counted(out: io.StringIO) -> None:
    """In asynchronous training, which has no rounds that begin."""
    story = Story(Console(out))
    story.start(unit="version")
    for version in range(5):
        for site in ("site-1", "site-2")[: 1 + version % 2]:
            failure = FAILURE | {"text": f"no data for {site}, version {version}"}
            story.tell(EventKind.SITE_FAILED, version, site, fatal=False, **failure)
    story.finish()
    told = "site-1 failed on version 0: ValueError: no data for site-1, version 0"
    assert lines(out)[1] == told
    assert lines(out)[3:] == [
        "failed: site-1 on version 0: ValueError: no data for site-1, version 0 "
        "(/elsewhere/client.py, line 41); so did site-2, 7 times in all"
    ]


def test_a_failed_run_ends_with_the_users_own_file_and_line_said_once(
    out: io.StringIO, tmp_path: Path
) -> None:
    story = Story(Console(out), tmp_path)
    story.start()
    story.tell(EventKind.ROUND_STARTED, 2, sites=3, task="train")
    story.tell(EventKind.SITE_FAILED, 2, "site-2", fatal=True, **FAILURE)
    error = "round 2 needs 3 sites and 2 are left; site-2 failed: ValueError: bad batch"
    story.finish("failed", **{**FAILURE, "error": error})
    assert lines(out)[-3:] == [
        error,
        '  File "/elsewhere/client.py", line 41',
        '    raise ValueError("bad batch")',
    ]
    assert out.getvalue().count("line 41") == 1
    assert "status: failed" in out.getvalue()


def test_a_caller_that_raises_the_failure_has_it_said_by_the_error_alone(out: io.StringIO) -> None:
    story = Story(Console(out, failures=False))
    story.start()
    story.tell(EventKind.SITE_FAILED, 2, "site-2", fatal=True, **FAILURE)
    story.finish("failed", **{**FAILURE, "error": "2 of 3 sites answered"})
    assert "line 41" not in out.getvalue()
    assert lines(out)[-1] == "status: failed, 10 rounds in 12.3 s"


def test_resuming_is_said_first(out: io.StringIO) -> None:
    Story(Console(out)).start(resumed_round=4)
    assert lines(out)[0] == "resuming an unfinished run at round 4 (COVEY_FRESH=1 starts over)"


def test_verbose_shows_every_answer(out: io.StringIO) -> None:
    story = Story(Console(out, verbose=True))
    story.start()
    story.round(1)
    assert lines(out)[1:3] == [
        "  site-1  accuracy 0.1  250 ms",
        "  site-2  accuracy 0.1  250 ms",
    ]


def test_notices_and_script_output_are_passed_on(out: io.StringIO) -> None:
    console = Console(out)
    console.write("site-1 | epoch 1\nsite-1 | epoch 2\n")
    Story(console).tell(EventKind.NOTICE, text="site-1 uses GPU 0")
    assert lines(out) == ["site-1 | epoch 1", "site-1 | epoch 2", "site-1 uses GPU 0"]


def test_two_runs_at_once_say_whose_line_it_is(out: io.StringIO) -> None:
    first, second = Story(Console(out)), Story(Console(out))
    first.start("a")
    first.round(0)
    second.start("b")
    second.round(0)
    second.finish()
    first.round(1)
    first.finish()
    told = [line.split("  ")[0] for line in lines(out) if "ok" in line]
    assert told == ["round 0", "b", "round 1"]


def test_a_pipe_that_closes_costs_only_the_lines() -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    story = Story(Console(stream))
    story.start()
    story.round(0)
    story.finish()
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_terminal_that_is_not_utf8_shows_what_it_can() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Console(stream).write("Größe →\n")
    assert raw.getvalue() == b"Gr\\xf6\\xdfe \\u2192\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (181_000, "181 KB"), (5.2e6, "5.2 MB"), (1.5e13, "15 TB")],
)
def test_bytes_are_told_for_people(count: float, text: str) -> None:
    assert size(count) == text


class Terminal:
    """A pseudo terminal and everything that is written to it."""

    def __init__(self) -> None:
        self._parent, child = pty.openpty()
        self.stream: TextIO = os.fdopen(child, "w")
        self._read = bytearray()
        self._reader = threading.Thread(target=self._drain)
        self._reader.start()

    def _drain(self) -> None:
        while True:
            try:
                data = os.read(self._parent, 4096)
            except OSError:  # the other end is closed
                return
            self._read += data

    def text(self) -> str:
        self.stream.close()
        self._reader.join(10)
        os.close(self._parent)
        return self._read.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


def test_a_terminal_gets_a_bar_and_the_same_lines_above_it(terminal: Terminal) -> None:
    stdout = sys.stdout
    console = Console(terminal.stream)
    story = Story(console)
    story.start()
    assert sys.stdout is not stdout, "prints of the program go above the bar"
    story.round(0)
    story.wait(5.0)
    bars._displays[terminal.stream].progress.refresh()  # in a run, ten times a second
    story.finish()
    assert sys.stdout is stdout
    text = terminal.text()
    assert "\x1b[" in text
    assert "1/10" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "round 0  2 ok  accuracy 0  1.2 s  181 KB transferred" in plain
    assert "waiting for site-1" in plain
    assert text.rstrip().count("\x1b[?25h") == 1, "the cursor is shown again"


def test_two_runs_share_one_display(terminal: Terminal) -> None:
    stdout = sys.stdout
    first, second = Story(Console(terminal.stream)), Story(Console(terminal.stream))
    first.start("a")
    second.start("b")
    first.finish()
    assert sys.stdout is not stdout
    second.finish()
    assert sys.stdout is stdout
    terminal.text()


def test_closing_takes_the_bar_down_whatever_came_of_the_run(terminal: Terminal) -> None:
    stdout = sys.stdout
    console = Console(terminal.stream)
    Story(console).start()
    console.close()
    console.close()
    assert sys.stdout is stdout
    terminal.text()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_codes_gets_plain_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    story = Story(Console(terminal.stream))
    story.start()
    story.round(0)
    story.finish()
    assert "\x1b" not in terminal.text()


def test_a_bar_is_not_drawn_where_a_debugger_needs_the_terminal(terminal: Terminal) -> None:
    story = Story(Console(terminal.stream, bar=False))
    story.start()
    story.finish()
    assert "\x1b" not in terminal.text()


def test_rich_is_not_imported_when_output_is_piped() -> None:
    code = (
        "import sys\n"
        "from covey.recipes.console import Console\n"
        "from covey.actors.observe.events import EventKind, RunEvent\n"
        "Console()(RunEvent(EventKind.RUN_STARTED, data={'name': 'x'}))\n"
        "print([m for m in ('rich.progress', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
