"""Scripts inside this process, one at a time, in the thread of the loop: for a debugger.

Here: `InlineLauncher` and the switching between a script and the loop. Not here: what is swapped
when switching (`surroundings.py`).

A script is plain blocking code, and so is the Client API. Each script runs on a greenlet, a call
stack of its own. `run` switches to it from inside a coroutine, and the whole process, loop
included, is the script's until it waits for its next task: then it switches back. Nothing runs
beside a script, so `breakpoint()` and step-by-step work as in any program, and nothing can end
one that does not return but Ctrl-C.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakSet

from greenlet import GreenletExit, getcurrent, greenlet

from covey.client.errors import WrongCall
from covey.client.messages import Answer, Ended, Failed, Metric, Stop, Task
from covey.client.running import ScriptSession
from covey.client.seeding import derive, seed_everything
from covey.transport import Record

from ...downloads.blobs import Blob
from .errors import Fault, LauncherError, ScriptDied, ScriptEnded, ScriptError, ScriptFailed
from .execute import describe, execute, exit_code, traceback_text
from .output import print_lines
from .preload import import_all
from .script import OnMetric, Outcome, ScriptSettings, Terminal
from .surroundings import InlineStream, Surroundings, outside
from .welcome import welcome_of

_INTERRUPTED: Final = "KeyboardInterrupt"


class InlineChannel:
    """A session's channel to the coroutine that runs its script."""

    def __init__(self, on_metric: OnMetric) -> None:
        self._on_metric = on_metric
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.script: Any = None  # its greenlet; greenlet has no type stubs
        self.inbox: Record | None = None
        self.killed = False
        self.answer: tuple[Answer, int | None] | None = None

    def send(self, message: Record, fds: tuple[int, ...] = ()) -> None:
        """Keep an answer for `run`; hand a metric on at once."""
        self._check_killed()
        if isinstance(message, Answer):
            self.answer = (message, os.dup(fds[0]) if fds else None)
        elif isinstance(message, Metric):
            self._send_metric(message)

    def receive(self, timeout_s: float | None) -> Record:
        """Give the process back to the loop until there is a message.

        A script does not run while it waits, so a timeout cannot fire.
        """
        del timeout_s
        self._check_killed()
        if getcurrent() is not self.script:
            raise WrongCall("receive()", "it must be called where the script itself runs")
        if self.inbox is None:
            self.script.parent.switch()
            self._check_killed()
        message, self.inbox = self.inbox, None
        assert message is not None
        return message

    def _send_metric(self, metric: Metric) -> None:
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self._on_metric, metric)
            return
        with outside(self._loop):
            self._on_metric(metric)

    def _check_killed(self) -> None:
        if self.killed:
            raise GreenletExit


class InlineScript:
    """A script on a greenlet; see `Script`."""

    def __init__(self, settings: ScriptSettings, on_metric: OnMetric, terminal: Terminal) -> None:
        self._welcome = welcome_of(settings)
        self._log = str(settings.log)
        log = open(settings.log, "a", 1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._stream = InlineStream(log, settings.echo, terminal)
        self._channel = InlineChannel(on_metric)
        session = ScriptSession(self._welcome, self._channel)
        self._surroundings = Surroundings(self._welcome, session, self._stream)
        self._greenlet: Any = greenlet(self._main)
        self._channel.script = self._greenlet
        self._end: Ended | Failed | None = None
        self._started = False
        self._interrupted = False
        self._gone = asyncio.Event()

    def __repr__(self) -> str:
        return f"<InlineScript of {self.site}, {'ended' if self._gone.is_set() else 'alive'}>"

    @property
    def site(self) -> str:
        """Name of the site."""
        return self._welcome.site

    @property
    def pid(self) -> int | None:
        """None: it has no process of its own."""
        return None

    async def run(self, task: Task) -> Outcome:
        """Run the script, and nothing else, until it waits for its next task; see `Script.run`."""
        if not self._gone.is_set():
            self._switch(task)
        if self._channel.answer is None:
            raise self._verdict()
        (answer, fd), self._channel.answer = self._channel.answer, None
        return Outcome(answer, Blob.of_fd(fd, answer.size) if fd is not None else None)

    async def wait(self) -> ScriptError | None:
        """Wait until the script has ended; see `Script.wait`."""
        await self._gone.wait()
        return self._verdict() if isinstance(self._end, Failed) else None

    async def stop(self, grace_s: float) -> ScriptError | None:
        """Let the script run to its end; see `Script.stop`. It takes the time it takes."""
        del grace_s
        if not self._started:
            self._leave()
        elif not self._gone.is_set():
            self._switch(Stop())
            self.kill()  # it waits once more, though there are no more tasks
        return await self.wait()

    def kill(self) -> None:
        """Unwind the script's stack: its `finally` blocks run, nothing else."""
        self._channel.killed = True
        if self._gone.is_set() or getcurrent() is self._greenlet:
            return
        if self._started:
            self._switch(None)
        self._leave()

    def _switch(self, message: Record | None) -> None:
        """Give the process to the script until it waits, or ends; None unwinds its stack."""
        self._started = True
        self._channel.inbox = message
        self._greenlet.parent = getcurrent()
        self._surroundings.enter()
        try:
            if message is None:
                self._greenlet.throw(GreenletExit)
            else:
                self._greenlet.switch()
        finally:
            self._surroundings.leave()
        if self._greenlet.dead:
            self._leave()
        if self._interrupted:
            self._interrupted = False
            signal.raise_signal(signal.SIGINT)  # for whoever handles it in this process

    def _main(self) -> None:
        """The greenlet: the script from its first line to its last."""
        welcome = self._welcome
        try:
            seed_everything(derive(welcome.seed, welcome.site))
            execute(welcome.script, sys.modules["__main__"])
            self._end = Ended()
        except GreenletExit:
            pass
        except SystemExit as error:
            self._end = Ended() if exit_code(error) == 0 else describe(error, welcome.script)
        except BaseException as error:
            self._interrupted = isinstance(error, KeyboardInterrupt)
            sys.stderr.write(traceback_text(error, welcome.script))
            self._end = describe(error, welcome.script)

    def _leave(self) -> None:
        self._gone.set()
        self._stream.close()

    def _verdict(self) -> ScriptError:
        if isinstance(self._end, Ended):
            return ScriptEnded(self.site, self._log)
        if isinstance(self._end, Failed) and self._end.kind != _INTERRUPTED:
            return ScriptFailed(self.site, self._log, Fault.of(self._end))
        number = signal.SIGKILL if self._end is None else signal.SIGINT
        return ScriptDied(self.site, self._log, None, number)


class InlineLauncher:
    """Runs scripts inside this process, one at a time; see `Launcher`.

    `start` and `run` block the loop: the first while modules are imported, the second while
    the script works.

    Args:
        preload: Modules to import before a script's random state is set, so that it finds the
            same state as in a process of its own.
        terminal: Takes the text of scripts that are echoed.
    """

    def __init__(self, preload: Sequence[str] = (), terminal: Terminal = print_lines) -> None:
        self._preload = tuple(preload)
        self._terminal = terminal
        self._scripts: WeakSet[InlineScript] = WeakSet()

    def __repr__(self) -> str:
        return f"<InlineLauncher {len(self._scripts)} scripts>"

    async def start(self, settings: ScriptSettings, on_metric: OnMetric) -> InlineScript:
        """Prepare a script; its first line runs with its first task. See `Launcher.start`."""
        import_all([*self._preload, "numpy", *(["torch"] if settings.kind == "torch" else [])])
        try:
            script = InlineScript(settings, on_metric, self._terminal)
        except OSError as error:
            raise LauncherError(f"the log of {settings.site}", str(error)) from error
        self._scripts.add(script)
        return script

    async def close(self) -> None:
        """Unwind every script that still waits; see `Launcher.close`."""
        for script in tuple(self._scripts):
            script.kill()
