"""Clients exec'd one by one, for systems on which a fork is not safe.

Here: `SpawnLauncher`, and reaping what it starts. Not here: the script once it runs
(`process.py`), the faster way (`fork.py`). Each client imports everything by itself: seconds
and hundreds of megabytes for torch, where a forked one takes milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from weakref import WeakSet

from .errors import LauncherError
from .output import print_lines
from .process import Process, ProcessScript, start_script, wait_for_all
from .script import OnMetric, ScriptSettings, Terminal
from .welcome import numeric_environment, script_environment


class SpawnedProcess:
    """An exec'd client; see `Process`. A thread waits for its end, as every system offers that."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._reaping = threading.Lock()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        name = f"covey-wait-{process.pid}"
        threading.Thread(target=self._wait, name=name, daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """End it and its group at once."""
        with self._reaping:  # so that the number is still its own
            if self._process.returncode is None:
                self._kill_group()

    def _wait(self) -> None:
        if hasattr(os, "waitid"):
            # Wait without reaping: until it is reaped, its number belongs to it.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._process.wait()
        with self._reaping:
            self._kill_group()
            code = self._process.wait()
        with suppress(RuntimeError):  # the loop is closed: nobody asks any more
            self._loop.call_soon_threadsafe(self._tell, code)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _tell(self, code: int) -> None:
        if not self.exited.done():
            self.exited.set_result(code)


class SpawnLauncher:
    """Runs each script in a process exec'd for it; see `Launcher`.

    Args:
        preload: Modules that a client imports before its random state is set, so that a script
            finds the same state as one forked from a template.
        terminal: Takes the lines of scripts that are echoed.
    """

    def __init__(self, preload: Sequence[str] = (), terminal: Terminal = print_lines) -> None:
        self._preload = tuple(preload)
        self._terminal = terminal
        self._scripts: WeakSet[ProcessScript] = WeakSet()

    def __repr__(self) -> str:
        return f"<SpawnLauncher {len(self._scripts)} scripts>"

    async def start(self, settings: ScriptSettings, on_metric: OnMetric) -> ProcessScript:
        """Exec a client; see `Launcher.start`."""
        env = numeric_environment(script_environment(settings))

        async def make_process(link_fd: int, output_fd: int) -> Process:
            return self._exec(settings.site, env, link_fd, output_fd)

        script = await start_script(settings, on_metric, self._terminal, make_process)
        self._scripts.add(script)
        return script

    async def close(self) -> None:
        """Kill every client and wait for its end; see `Launcher.close`."""
        for script in tuple(self._scripts):
            script.kill()
        await wait_for_all(tuple(self._scripts))

    def _exec(self, site: str, env: dict[str, str], link_fd: int, output_fd: int) -> Process:
        command = [sys.executable, "-P", "-m", f"{__package__}.child", str(link_fd), *self._preload]
        try:
            started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output_fd,
                stderr=output_fd,
                pass_fds=(link_fd,),
                process_group=0,
                env=env,
            )
        except OSError as error:
            raise LauncherError(f"the script of {site}", f"no process: {error}") from error
        return SpawnedProcess(started)
