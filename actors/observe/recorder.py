"""A tracker whose package works in a process of its own, the recorder.

Here: starting the recorder, handing it the run's events, seeing that it ends. Not here: what it
does with them (`recording.py`), and how a package keeps curves (`mlflow.py`, `wandb.py`).

Why a process: importing MLflow or wandb takes seconds, starts threads, sets environment
variables and log handlers, and may look for a server to report to; making MLflow's database is
seconds of Python. In the run's process all of that would share the interpreter with its loop.

The recorder reads lines of JSON from its standard input: the experiment, then events, then
`null`. Its standard output is empty, or has the line that says why it failed. What packages print
is in `recorder.log` beside the curves. A run that is killed closes the pipe, and the recorder ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event, Thread
from typing import Final

from .errors import TrackingFailed
from .events import EventKind, RunEvent
from .tracking import Experiment

LOG: Final = "recorder.log"

#: Events that a recorder is told of.
_TOLD: Final = frozenset(
    {
        EventKind.METRIC,
        EventKind.SITE_FINISHED,
        EventKind.ROUND_FINISHED,
        EventKind.RUN_FINISHED,
    }
)

#: Events come in crowds: those of this time go into the pipe together.
_GATHER_S: Final = 0.05
#: Events that may wait for a recorder, some 50 MB. It begins to read after the seconds of its
#: imports, and a hundred scripts may stream a hundred values a second each.
MOST_WAITING: Final = 100_000
#: What a recorder may take to its end. It writes some thousand values a second, but may have to
#: make MLflow's runs for a thousand sites first, 20 ms each.
END_S: Final = 300.0
#: What the last events may take into the pipe of a recorder that nobody waits for.
_HAND_OVER_S: Final = 0.3
#: Longest reason read from a recorder that failed.
_REASON_BYTES: Final = 4096

_ENCODE: Final = json.JSONEncoder(separators=(",", ":"), default=str).encode


class Recorder:
    """Hands a run's events to a recorder; subscribe it to the run's journal.

    The recorder starts with the first event that has something for it. One thread, owned by this
    object, writes to its pipe, so that no event waits for it.

    Args:
        tracker: Name of the tracker, for messages.
        command: The recorder's command line.
        folder: Where curves go; made if it is not there.
        experiment: What the recorder is told first.
        environment: Its environment.
        most_waiting: Events that may wait for it.
        end_s: Time it may take to its end.

    Raises:
        OSError: If the folder cannot be made.
    """

    def __init__(
        self,
        tracker: str,
        command: Sequence[str],
        folder: Path,
        experiment: Experiment,
        *,
        environment: Mapping[str, str],
        most_waiting: int = MOST_WAITING,
        end_s: float = END_S,
    ) -> None:
        self.__name__ = f"{tracker} tracking"  # what a journal calls its subscribers
        self._tracker = tracker
        self._command = tuple(command)
        self._folder = folder
        self._experiment = experiment
        self._environment = dict(environment)
        self._most_waiting = most_waiting
        self._end_s = end_s
        self._waiting: deque[RunEvent] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: Thread | None = None
        self._woken, self._ending, self._handed_over = Event(), Event(), Event()
        self._ended: Future[None] = Future()
        self._told = False
        folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        pid = "not started" if self._process is None else f"pid {self._process.pid}"
        return f"<Recorder of {self._tracker}, {pid}, {len(self._waiting)} events waiting>"

    @property
    def log(self) -> Path:
        """What the recorder prints."""
        return self._folder / LOG

    def __call__(self, event: RunEvent) -> None:
        """Take in one event, without waiting.

        Raises:
            TrackingFailed: The recorder has ended, or is too far behind.
            OSError: It cannot be started.
        """
        if event.kind not in _TOLD:
            return
        if self._ended.done():
            self._raise_failure()
        if len(self._waiting) >= self._most_waiting:
            self._told = True
            raise self._failure(f"it is {len(self._waiting)} events behind")
        if self._process is None:
            self._start()
        self._waiting.append(event)
        self._woken.set()

    async def end(self) -> None:
        """Wait until the recorder has written everything and is gone.

        Cancelling gives up waiting: the recorder goes on to its end by itself.

        Raises:
            TrackingFailed: It failed, unless that was told before, or took too long: then it is
                killed.
        """
        self._begin_to_end()
        if self._process is None or self._thread is None:
            return
        ended = asyncio.wrap_future(self._ended)
        ended.add_done_callback(_look_at)
        # Not `await ended`: a cancelled wait must not cancel what the thread will set.
        done, _ = await asyncio.wait([ended], timeout=self._end_s)
        if not done:
            self._process.kill()
            await asyncio.wait([ended])
        self._thread.join()  # what it set was the last thing it did
        if not done:
            self._told = True
            raise self._failure(f"it was not done after {self._end_s:g} s")
        self._raise_failure()

    def close(self) -> None:
        """Hand the last events over, and let the recorder end by itself; idempotent."""
        self._begin_to_end()
        if self._process is not None:
            self._handed_over.wait(_HAND_OVER_S)

    def _begin_to_end(self) -> None:
        self._ending.set()
        self._woken.set()

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                process_group=0,  # so that Ctrl-C does not reach it
            )
        # A daemon: an interpreter that exits without `close` must not wait for it.
        self._thread = Thread(
            target=self._accompany, args=(self._process,), name=self.__name__, daemon=True
        )
        self._thread.start()

    # In the thread ---------------------------------------------------------

    def _accompany(self, process: subprocess.Popen[bytes]) -> None:
        """From the recorder's start to its end."""
        assert process.stdin is not None
        assert process.stdout is not None
        # An error says that it has gone; its standard output says why.
        with suppress(OSError), process.stdin as pipe:
            self._hand_over(pipe.fileno())
        self._handed_over.set()
        with process.stdout as answer:
            reason = answer.read(_REASON_BYTES).decode(errors="replace").strip()
        status = process.wait()
        if status == 0:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(self._failure(reason or f"its process ended with {status}"))

    def _hand_over(self, pipe: int) -> None:
        _write(pipe, [_ENCODE(asdict(self._experiment))])
        ending = False
        while not ending:
            self._woken.wait()
            self._ending.wait(_GATHER_S)
            self._woken.clear()
            ending = self._ending.is_set()
            while self._waiting:
                _write(pipe, [self._line(self._waiting.popleft()) for _ in self._crowd()])
        _write(pipe, ["null"])

    def _crowd(self) -> range:
        """As many events as are worth one call of the system."""
        return range(min(len(self._waiting), 256))

    @staticmethod
    def _line(event: RunEvent) -> str:
        return _ENCODE((event.kind.value, event.round, event.site, event.time, event.data))

    # Failures --------------------------------------------------------------

    def _failure(self, why: str) -> TrackingFailed:
        return TrackingFailed(self._tracker, why, self.log)

    def _raise_failure(self) -> None:
        """Tell once that the recorder failed."""
        failure = self._ended.exception()
        if failure is not None and not self._told:
            self._told = True
            raise failure


def command(tracker: str, folder: Path) -> tuple[str, ...]:
    """The command line of a tracker's recorder."""
    # -P: the current folder may have files and folders of any name.
    module = f"{__package__}.recording"
    return (sys.executable, "-P", "-m", module, tracker, str(folder.absolute()))


def environment(settings: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    """This process's environment, with settings in place of all that begin with the prefixes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return kept | dict(settings)


def _look_at(ended: asyncio.Future[None]) -> None:
    """Take note of an error: of one that nobody looked at, asyncio would print a traceback."""
    if not ended.cancelled():
        ended.exception()


def _write(pipe: int, lines: Sequence[str]) -> None:
    data = memoryview("".join(f"{line}\n" for line in lines).encode())
    while data:
        data = data[os.write(pipe, data) :]
