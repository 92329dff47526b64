"""Clients forked from a template that has everything imported.

Here: the launcher's side: `Template`, a handle on the template process, and `ForkLauncher`. Not
here: the template's own work (`template.py`), the script once it runs (`process.py`). On systems
where a fork is not safe, see `spawn.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final
from weakref import WeakSet

from . import control
from .control import Loaded
from .errors import LauncherError
from .output import print_lines
from .process import Process, ProcessScript, start_script, wait_for_all
from .script import OnMetric, ScriptSettings, Terminal
from .welcome import numeric_environment

#: Whether this system can fork safely: macOS' own libraries do not survive it.
FORK_IS_SAFE: Final = sys.platform == "linux"

#: Importing torch from a cold network file system takes a minute; more is a fault.
_LOAD_S: Final = 300.0

#: A fork takes 5 to 20 ms; the rest is for a machine that is busy or swapping.
_FORK_S: Final = 60.0

#: Forks asked for at once; keeps the control socket's queue short.
_FORKS_AT_ONCE: Final = 16

#: Names in one message; with the reasons why they failed, their answer stays below its limit.
_NAMES_AT_ONCE: Final = 100

_EXIT_S: Final = 10.0

_GONE: Final = -9  # returncode of clients whose template has gone: the kernel killed them


class ForkedProcess:
    """A client of the template; see `Process`."""

    def __init__(self, template: Template, client: int) -> None:
        loop = asyncio.get_running_loop()
        self._template = template
        self.client = client
        self.forked: asyncio.Future[int] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.forked.result()

    def refuse(self, why: str) -> None:
        """Tell whoever waits for the fork that there will be none."""
        if not self.forked.done():
            self.forked.set_exception(LauncherError("the template process", why))
            self.forked.exception()  # a cancelled start waits no more

    def kill(self) -> None:
        """Have the template kill its group: it knows whether the number is still the client's."""
        self._template.kill_client(self.client)


class Template:
    """A handle on a template process.

    Made by `launch`, without waiting and without a loop, so that a command can start it before
    its own imports. The first awaited method binds it to the running loop.
    """

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self._process = process
        self._socket = sock
        self._asked: list[str] = []
        self._requests = 0
        self._answers: list[Loaded] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._clients: dict[int, ForkedProcess] = {}
        self._kills: dict[int, None] = {}
        self._numbers = count(1)
        self._gone: str | None = None

    @classmethod
    def launch(cls, preload: Sequence[str] = (), *, log: Path | None = None) -> Template:
        """Start a template process and have it import modules; returns at once.

        Args:
            preload: Modules as `imports.scan` names them.
            log: File for what those imports print; standard error if None.

        Raises:
            LauncherError: If the process cannot be started.
        """
        ours, theirs = control.pair()
        command = [sys.executable, "-P", "-m", f"{__package__}.template", str(theirs.fileno())]
        stderr = open(log, "ab") if log is not None else None  # noqa: SIM115 (closed below)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr if stderr is not None else 2,
                stderr=stderr,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # so that Ctrl-C does not reach it or any client
                env=numeric_environment(dict(os.environ)),
            )
        except OSError as error:
            ours.close()
            raise LauncherError("the template process", f"it cannot be started: {error}") from error
        finally:
            theirs.close()
            if stderr is not None:
                stderr.close()
        template = cls(process, ours)
        template.preload(preload)
        return template

    def __repr__(self) -> str:
        state = f"gone: {self._gone}" if self._gone else f"{len(self._clients)} clients"
        return f"<Template pid {self._process.pid}, {state}>"

    @property
    def pid(self) -> int:
        """Process id of the template."""
        return self._process.pid

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module it was asked to import, in order."""
        return tuple(self._asked)

    def preload(self, modules: Sequence[str]) -> None:
        """Have it import more modules, behind those asked for before; returns at once."""
        self._asked.extend(name for name in modules if name not in self._asked)
        # In pieces that fit a message, as do their answers; an empty one is answered too.
        for begin in range(0, max(1, len(modules)), _NAMES_AT_ONCE):
            piece = list(modules[begin : begin + _NAMES_AT_ONCE])
            self._requests += 1
            with suppress(ConnectionError):  # it is gone: `ready` tells
                control.send(self._socket, control.Preload(piece))

    async def ready(self) -> Loaded:
        """Wait until everything asked for is imported.

        Returns:
            What happened, all requests taken together.

        Raises:
            LauncherError: If the process is gone, or takes longer than five minutes.
        """
        self._attach()
        try:
            async with asyncio.timeout(_LOAD_S):
                while self._gone is None and len(self._answers) < self._requests:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise LauncherError(
                "the template process", f"it has not imported {self._asked} in {_LOAD_S:.0f} s"
            ) from None
        self._check_alive()
        return _together(self._answers)

    async def fork(self, link_fd: int, output_fd: int) -> ForkedProcess:
        """Fork a client that takes copies of the two descriptors.

        Raises:
            LauncherError: If the template refuses, is gone, or does not answer.
        """
        await self.ready()
        process = ForkedProcess(self, next(self._numbers))
        self._clients[process.client] = process
        try:
            control.send(self._socket, control.Fork(process.client), (link_fd, output_fd))
            async with asyncio.timeout(_FORK_S):
                await asyncio.shield(process.forked)
        except (OSError, TimeoutError) as error:
            self._check_alive()
            why = str(error) or f"it has not answered in {_FORK_S:.0f} s"
            raise LauncherError("the template process", why) from error
        return process

    def kill_client(self, client: int) -> None:
        """Kill a client's group, if it still runs."""
        if client in self._clients and client not in self._kills:
            self._kills[client] = None
            self._send_kills()

    def _send_kills(self) -> None:
        """Send what the socket takes; the rest once it takes more, for none may be lost."""
        while self._kills:
            client = next(iter(self._kills))
            try:
                if client in self._clients:  # it may have ended meanwhile
                    control.send(self._socket, control.Kill(client))
            except BlockingIOError:
                if self._loop is not None:
                    self._loop.add_writer(self._socket, self._send_kills)
                return
            except OSError:  # gone, and every client with it
                self._kills.clear()
                return
            del self._kills[client]
        if self._loop is not None:
            self._loop.remove_writer(self._socket)

    def kill(self) -> None:
        """End the template and every client at once, without a loop; idempotent."""
        self._lose("it was killed by this side")
        self._process.kill()
        self._process.wait()  # a killed process is gone in milliseconds

    async def close(self) -> None:
        """End every client, then the template, and wait until all are reaped; idempotent.

        A template that does not answer is killed; the kernel then ends its clients.
        """
        exits = [process.exited for process in self._clients.values()]
        for client in tuple(self._clients):
            self.kill_client(client)
        if exits:
            self._attach()
            await asyncio.wait(exits, timeout=_EXIT_S)
        self._lose("it was closed by this side")
        try:
            await asyncio.to_thread(self._process.wait, _EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, _EXIT_S)

    def _attach(self) -> None:
        if self._loop is None and self._gone is None:
            self._loop = asyncio.get_running_loop()
            self._socket.setblocking(False)
            self._loop.add_reader(self._socket, self._on_readable)

    def _on_readable(self) -> None:
        while self._gone is None:
            try:
                received = control.receive(self._socket)
            except BlockingIOError:
                return
            except ConnectionError:
                received = None
            if received is None:
                self._lose(self._how_it_ended())
                return
            self._take(received[0])

    def _take(self, message: control.Message) -> None:
        if isinstance(message, Loaded):
            self._answers.append(message)
            self._changed.set()
        elif isinstance(message, control.Forked):
            _set(self._clients[message.client].forked, message.pid)
        elif isinstance(message, control.Refused):
            self._clients.pop(message.client).refuse(message.why)
        elif isinstance(message, control.Exited):
            _set(self._clients.pop(message.client).exited, message.returncode)

    def _lose(self, why: str) -> None:
        """Stop listening; whoever waits is told."""
        if self._gone is not None:
            return
        self._gone = why
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has been closed before
                self._loop.remove_reader(self._socket)
                self._loop.remove_writer(self._socket)
        self._socket.close()
        self._changed.set()
        for process in self._clients.values():
            process.refuse(why)
            _set(process.exited, _GONE)
        self._clients.clear()

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_EXIT_S)  # its socket is closed: it is gone or about to be
        except subprocess.TimeoutExpired:
            return "it closed its control socket"
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        if len(self._answers) < self._requests:
            return f"it ended with {ended} while importing {', '.join(self._asked) or 'nothing'}"
        return f"it ended with {ended}"

    def _check_alive(self) -> None:
        if self._gone is not None:
            raise LauncherError("the template process", self._gone)


class ForkLauncher:
    """Runs each script in a process forked from a template; see `Launcher`.

    Args:
        template: The template; the launcher owns it from now on.
        terminal: Takes the lines of scripts that are echoed.
    """

    def __init__(self, template: Template, terminal: Terminal = print_lines) -> None:
        self._template = template
        self._terminal = terminal
        self._forking = asyncio.Semaphore(_FORKS_AT_ONCE)
        self._preparing = asyncio.Lock()
        self._scripts: WeakSet[ProcessScript] = WeakSet()

    def __repr__(self) -> str:
        return f"<ForkLauncher of {self._template!r}>"

    @property
    def template(self) -> Template:
        """The template in use."""
        return self._template

    async def prepare(self) -> Loaded:
        """Wait until the template can fork.

        If a module turns out to be unfit for a template, another template is started that
        leaves it out; clients then import it by themselves.

        Raises:
            LauncherError: If the template cannot be made to work.
        """
        async with self._preparing:
            loaded = await self._template.ready()
            while loaded.unsafe is not None:
                fit = [name for name in self._template.modules if name != loaded.unsafe]
                await self._template.close()
                self._template = Template.launch(fit)
                loaded = await self._template.ready()
            return loaded

    async def start(self, settings: ScriptSettings, on_metric: OnMetric) -> ProcessScript:
        """Fork a client; see `Launcher.start`."""
        await self.prepare()
        script = await start_script(settings, on_metric, self._terminal, self._fork)
        self._scripts.add(script)
        return script

    async def close(self) -> None:
        """Kill every client and the template; see `Launcher.close`."""
        for script in tuple(self._scripts):
            script.kill()
        await self._template.close()
        await wait_for_all(tuple(self._scripts))

    async def _fork(self, link_fd: int, output_fd: int) -> Process:
        async with self._forking:
            return await self._template.fork(link_fd, output_fd)


def _together(answers: list[Loaded]) -> Loaded:
    failed: dict[str, str] = {}
    for answer in answers:
        failed |= answer.failed
    modules = [name for answer in answers for name in answer.modules]
    seconds = sum(answer.seconds for answer in answers)
    unsafe = next((answer for answer in answers if answer.unsafe is not None), None)
    if unsafe is None:
        return Loaded(modules, seconds, failed)
    return Loaded(modules, seconds, failed, unsafe.unsafe, unsafe.why)


def _set(future: asyncio.Future[int], value: int) -> None:
    if not future.done():
        future.set_result(value)
