"""A script in a process of its own, seen from its trainer's side.

Here: `ProcessScript`: tasks and answers over the link, and what the end of the process means.
Not here: how the process is made and reaped (`fork.py`, `spawn.py` give it as a `Process`), what
happens inside it (`child.py`).

Two things tell of an end, the link and the exit code, in any order. Words that the script sent
before its end may still be in the link when the exit code is known, so an end is judged when
both have come, or the link has had `_LAST_WORDS_S` to follow.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any, Final, Protocol

from covey.client.messages import (
    Answer,
    Ended,
    Failed,
    Metric,
    Ready,
    Stop,
    Task,
    messages,
)
from covey.transport import Codec, Envelope, Kind, LinkClosed, Record, SocketLink, TransportError

from ...downloads.blobs import Blob
from ...downloads.errors import BadBlob
from .errors import (
    BadAnswer,
    Fault,
    LauncherError,
    ScriptDied,
    ScriptEnded,
    ScriptError,
    ScriptFailed,
)
from .limits import LINK_LIMITS, ORPHANED
from .output import Output
from .script import OnMetric, Outcome, ScriptSettings, Terminal
from .welcome import welcome_of

#: How long the link may take to end after its process: it does at once, unless a process that
#: escaped the script's group holds it open. And the other way round.
_LAST_WORDS_S: Final = 1.0

#: How long a killed process may take to be gone; the kernel needs milliseconds.
_KILL_S: Final = 10.0


class Process(Protocol):
    """A process, for as long as it is not reaped."""

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        ...

    @property
    def exited(self) -> asyncio.Future[int]:
        """Its exit code, or minus the signal that ended it."""
        ...

    def kill(self) -> None:
        """End it and its group at once; nothing happens if it has ended."""
        ...


class ProcessScript:
    """A running script; see `Script`."""

    def __init__(
        self,
        settings: ScriptSettings,
        link: SocketLink,
        process: Process,
        output: Output,
        on_metric: OnMetric,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._site = settings.site
        self._log = str(settings.log)
        self._link = link
        self._process = process
        self._output = output
        self._on_metric = on_metric
        self._task: Task | None = None
        self._pending: asyncio.Future[Outcome] | None = None
        self._fault: ScriptError | None = None
        self._ended = False
        self._killed = False
        self._link_ended: asyncio.Future[str] = loop.create_future()
        self._ready: asyncio.Future[int] = loop.create_future()
        self._finishing = loop.create_task(self._finish(), name=f"script of {self._site}")
        link.start(self._receive, self._lost)

    def __repr__(self) -> str:
        state = "ended" if self._finishing.done() else f"pid {self._process.pid}"
        return f"<ProcessScript of {self._site}, {state}>"

    @property
    def site(self) -> str:
        """Name of the site."""
        return self._site

    @property
    def pid(self) -> int | None:
        """Process id, None once it has ended."""
        return None if self._process.exited.done() else self._process.pid

    async def ready(self) -> int:
        """Wait until the script has called `init()`; gives its own process id.

        Raises:
            ScriptError: If it ended before.
        """
        signs: list[asyncio.Future[Any]] = [self._ready, self._finishing]
        await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            raise self._verdict()
        return self._ready.result()

    async def run(self, task: Task) -> Outcome:
        """Give the script a task and wait for its answer; see `Script.run`."""
        if self._pending is not None and not self._pending.done():
            raise RuntimeError(f"the script of {self._site} is at work on {self._task}")
        if self._fault is not None or self._ended or self._finishing.done():
            raise self._verdict()
        pending: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._task, self._pending = task, pending
        self._send(task)
        return await pending

    async def wait(self) -> ScriptError | None:
        """Wait until the script has ended, and tell how; see `Script.wait`."""
        await asyncio.shield(self._finishing)
        if self._fault is not None:
            return self._fault
        return None if self._ended or self._killed else self._verdict()

    async def stop(self, grace_s: float) -> ScriptError | None:
        """Tell the script that there are no more tasks; see `Script.stop`."""
        self._send(Stop())
        done, _ = await asyncio.wait([self._finishing], timeout=grace_s)
        if not done:
            self.kill()
            await asyncio.wait([self._finishing], timeout=_KILL_S)
        return await self.wait() if self._finishing.done() else self._fault

    def kill(self) -> None:
        """End the script's process and its group at once."""
        if not self._process.exited.done():
            self._killed = True
            self._process.kill()

    def _send(self, message: Record) -> None:
        with suppress(LinkClosed):  # then its end is on the way, and says more
            self._link.send(Envelope(Kind.TELL, message=message))

    def _receive(self, envelope: Envelope) -> None:
        message = envelope.message
        if isinstance(message, Answer):
            self._take_answer(message, envelope.fds)
            return
        for fd in envelope.fds:
            os.close(fd)
        if isinstance(message, Metric):
            self._on_metric(message)
        elif isinstance(message, Failed):
            self._fault = ScriptFailed(self._site, self._log, Fault.of(message))
            self._resolve(self._fault)
        elif isinstance(message, Ended):
            self._ended = True
            self._resolve(ScriptEnded(self._site, self._log))
        elif isinstance(message, Ready) and not self._ready.done():
            self._ready.set_result(message.pid)

    def _take_answer(self, answer: Answer, fds: tuple[int, ...]) -> None:
        task, pending = self._task, self._pending
        due = task is not None and (answer.task, answer.round) == (task.name, task.round)
        if not due or pending is None or pending.done() or len(fds) != answer.has_tensors:
            for fd in fds:
                os.close(fd)
            self._break_off(f"{answer.task!r} of round {answer.round} with {len(fds)} files")
            return
        try:
            blob = Blob.of_fd(fds[0], answer.size) if fds else None
        except BadBlob as error:
            self._break_off(error.why)
            return
        pending.set_result(Outcome(answer, blob))

    def _break_off(self, why: str) -> None:
        """End a script that does not keep to the rules."""
        if self._fault is None:
            self._fault = BadAnswer(self._site, self._log, why)
        self._resolve(self._fault)
        self._process.kill()

    def _resolve(self, error: ScriptError) -> None:
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(error)

    def _lost(self, reason: str) -> None:
        self._link_ended.set_result(reason)

    async def _finish(self) -> None:
        """Wait for both signs of the end, and judge it. Bounded by the process' life."""
        signs: list[asyncio.Future[Any]] = [self._link_ended, self._process.exited]
        try:
            await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(signs, timeout=_LAST_WORDS_S)
            if not self._process.exited.done():
                # Alive without its link: it closed it, or what it sent was no message.
                self._break_off(self._link_ended.result())
                await asyncio.wait([self._process.exited], timeout=_KILL_S)
        finally:
            self._link.close()
            self._output.close()
            self._resolve(self._verdict())

    def _verdict(self) -> ScriptError:
        """Why no answer came or will come."""
        if self._fault is not None:
            return self._fault
        if self._ended:
            return ScriptEnded(self._site, self._log)
        exited = self._process.exited
        code = exited.result() if exited.done() and not exited.cancelled() else None
        if code == ORPHANED and self._link_ended.done():
            # This side is there, so what the script sent was no message and ended the link.
            return BadAnswer(self._site, self._log, self._link_ended.result())
        if code is None or code >= 0:
            return ScriptDied(self._site, self._log, code, None)
        return ScriptDied(self._site, self._log, None, -code)


async def wait_for_all(scripts: Collection[ProcessScript]) -> None:
    """Wait, bounded, until these scripts, which have been killed, have ended."""
    waiting = [asyncio.ensure_future(script.wait()) for script in scripts]
    if waiting:
        await asyncio.wait(waiting, timeout=_KILL_S)


async def start_script(
    settings: ScriptSettings,
    on_metric: OnMetric,
    terminal: Terminal,
    make_process: Callable[[int, int], Awaitable[Process]],
) -> ProcessScript:
    """Make a process for a script and greet it.

    Args:
        settings: The script's settings.
        on_metric: Called with each metric it streams.
        terminal: Takes its lines if they are echoed.
        make_process: Given copies of the link's far end and of the output, starts a process.

    Raises:
        LauncherError: If the log cannot be opened or the settings do not fit a message.
    """
    welcome = welcome_of(settings)
    try:
        output = Output(settings.log, settings.echo, terminal)
    except OSError as error:
        raise LauncherError(f"the log of {settings.site}", f"{settings.log}: {error}") from error
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    link = SocketLink(ours, Codec(_REGISTRY, LINK_LIMITS), settings.site)
    try:
        with theirs:
            link.send(Envelope(Kind.TELL, message=welcome))
            process = await make_process(theirs.fileno(), output.child_fd)
        output.handed_over()
    except BaseException as error:
        # A process that came to be all the same finds its link closed and ends.
        link.close()
        output.close()
        if isinstance(error, TransportError):
            raise LauncherError(f"the script of {settings.site}", str(error)) from error
        raise
    return ProcessScript(settings, link, process, output, on_metric)


_REGISTRY: Final = messages()
