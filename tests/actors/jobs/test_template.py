"""The template that clients are forked from: what it loads, and who ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from covey.actors.jobs.launchers import control
from covey.actors.jobs.launchers.control import Loaded
from covey.actors.jobs.launchers.errors import LauncherError, ScriptDied
from covey.actors.jobs.launchers.fork import (
    FORK_IS_SAFE,
    ForkedProcess,
    ForkLauncher,
    Template,
)

if TYPE_CHECKING:
    from tests.actors.jobs.conftest import Bench

pytestmark = pytest.mark.skipif(not FORK_IS_SAFE, reason="fork is not safe on this system")


def test_the_death_of_the_template_ends_its_clients(
    bench: Bench, gone: Callable[[int], None]
) -> None:
    async def main() -> None:
        launcher = ForkLauncher(Template.launch(["numpy"]))
        path = bench.loop("time.sleep(60)")
        script = await launcher.start(bench.settings(path), bench.metrics.append)
        pid = script.pid
        assert pid is not None
        running = asyncio.create_task(script.run(bench.task()))
        os.kill(launcher.template.pid, signal.SIGKILL)
        with pytest.raises(ScriptDied):
            await running
        with pytest.raises(LauncherError, match="signal 9"):
            await launcher.start(bench.settings(path), bench.metrics.append)
        await launcher.close()
        gone(pid)

    asyncio.run(main())


MAIN = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from covey.actors.jobs.launchers.fork import ForkLauncher, Template
    from covey.actors.jobs.launchers.spawn import SpawnLauncher
    from covey.actors.jobs.launchers.script import ScriptSettings

    async def main():
        launcher = {launcher}
        folder = Path(sys.argv[1])
        settings = ScriptSettings("site-1", "job", folder / "client.py", folder, os.environ,
                                  folder / "log", 1, "numpy")
        at_work = asyncio.Event()
        script = await launcher.start(settings, lambda metric: at_work.set())
        await at_work.wait()
        print(script.pid, {template}, flush=True)
        await asyncio.sleep(600)

    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("launcher", "template"),
    [
        ("ForkLauncher(Template.launch([]))", "launcher.template.pid"),
        ("SpawnLauncher()", "script.pid"),
    ],
)
def test_the_death_of_main_ends_everything_even_scripts_at_work(
    bench: Bench, gone: Callable[[int], None], launcher: str, template: str
) -> None:
    bench.script(
        """
        import time
        import covey.client as flare
        flare.log("at work", 1)
        while True:
            time.sleep(0.01)
        """
    )
    text = textwrap.dedent(MAIN.format(launcher=launcher, template=template))
    command = [sys.executable, "-c", text, str(bench.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        pids = [int(word) for word in main.stdout.readline().split()]
        main.kill()
    for pid in pids:
        gone(pid)


def test_clients_and_template_are_in_groups_of_their_own(bench: Bench) -> None:
    async def main() -> None:
        async with bench.launcher("fork") as launcher:
            path = bench.loop("pass")
            settings = [bench.settings(path, f"site-{n}") for n in range(2)]
            scripts = [await launcher.start(one, print) for one in settings]
            assert isinstance(launcher, ForkLauncher)
            pids = [script.pid for script in scripts] + [launcher.template.pid]
            groups = [os.getpgid(pid) for pid in pids if pid is not None]
            assert groups == pids
            assert os.getpgrp() not in groups

    asyncio.run(main())


def test_a_template_is_launched_before_there_is_a_loop(bench: Bench) -> None:
    template = Template.launch(["json"])
    template.preload(["csv", "nowhere_to_be_found"])

    async def main() -> None:
        loaded = await template.ready()
        assert loaded.modules == ["json", "csv", "nowhere_to_be_found"]
        assert list(loaded.failed) == ["nowhere_to_be_found"]
        assert loaded.unsafe is None
        launcher = ForkLauncher(template)
        script = await launcher.start(bench.settings(bench.loop("pass")), print)
        bench.arrays(await script.run(bench.task()))
        await launcher.close()

    asyncio.run(main())


def test_a_template_that_is_not_needed_is_killed_without_a_loop() -> None:
    template = Template.launch([])
    template.kill()
    template.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(template.pid, 0)


def test_a_template_leaves_out_a_module_that_starts_threads(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.script(
        """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        """,
        "installed/threaded_module.py",
    )
    monkeypatch.setenv("PYTHONPATH", str(bench.folder / "installed"))

    async def main() -> None:
        launcher = ForkLauncher(Template.launch(["json", "threaded_module", "csv"]))
        loaded = await launcher.prepare()
        assert loaded.modules == ["json", "csv"]
        settings = bench.settings(bench.loop("pass", "threaded_module"))
        script = await launcher.start(settings, print)
        bench.arrays(await script.run(bench.task()))
        await launcher.close()

    asyncio.run(main())


def test_a_template_says_what_it_was_importing_when_it_crashed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.script("import os; os.abort()", "installed/crashing_module.py")
    monkeypatch.setenv("PYTHONPATH", str(bench.folder / "installed"))

    async def main() -> None:
        launcher = ForkLauncher(Template.launch(["crashing_module"], log=bench.log("template")))
        with pytest.raises(LauncherError, match="signal 6 while importing crashing_module"):
            await launcher.start(bench.settings(bench.loop("pass")), print)
        await launcher.close()

    asyncio.run(main())


def test_thousands_of_modules_may_be_asked_for() -> None:
    async def main() -> Loaded:
        names = [f"no_such_module_of_a_rather_long_name_{number}" for number in range(2500)]
        template = Template.launch(names)
        try:
            return await template.ready()
        finally:
            await template.close()

    loaded = asyncio.run(main())
    assert len(loaded.failed) == 2500


def test_no_kill_is_lost_when_many_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[int]:
        template = Template.launch()
        await template.ready()
        clients = range(1, 1001)
        template._clients = dict.fromkeys(clients, ForkedProcess(template, 0))
        sent: list[int] = []
        done = asyncio.Event()
        real, full = control.send, iter([False] * 100 + [True] + [False] * 2000)

        def send(sock: socket.socket, message: control.Message, fds: tuple[int, ...] = ()) -> None:
            if isinstance(message, control.Kill):
                if next(full):
                    raise BlockingIOError
                sent.append(message.client)
                if len(sent) == len(clients):
                    done.set()
            else:
                real(sock, message, fds)

        monkeypatch.setattr(control, "send", send)
        for client in clients:
            template.kill_client(client)
        async with asyncio.timeout(30):
            await done.wait()
        template._clients.clear()
        await template.close()
        return sent

    assert asyncio.run(main()) == list(range(1, 1001))
