"""What only scripts in this process can do: debuggers, loops of their own, Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from covey.actors.jobs.launchers.errors import LauncherError, ScriptFailed
from covey.actors.jobs.launchers.inline import InlineLauncher

if TYPE_CHECKING:
    from tests.actors.jobs.conftest import Bench


def test_a_script_may_run_a_loop_of_its_own(bench: Bench) -> None:
    text = """
        import asyncio
        import covey.client as flare
        async def work():
            await asyncio.sleep(0)
            return 5
        flare.init()
        while flare.is_running():
            model = flare.receive()
            flare.send(flare.FLModel(metrics={"x": asyncio.run(work())}))
    """

    async def main() -> None:
        async with bench.running("inline", bench.settings(bench.script(text))) as script:
            for round in range(2):
                loop = asyncio.get_running_loop()
                answer = (await script.run(bench.task(round, "evaluate"))).answer
                assert answer.metrics == {"x": 5.0}
                assert asyncio.get_running_loop() is loop
                await asyncio.sleep(0)
            assert await script.stop(1) is None

    asyncio.run(main())


def test_metrics_are_handed_over_in_the_loop(bench: Bench) -> None:
    text = "import covey.client as f\nf.init()\nm = f.receive()\nf.log('a', 1)\nf.send(m)\n"
    loops: list[object] = []

    async def main() -> None:
        async with bench.launcher("inline") as launcher:
            settings = bench.settings(bench.script(text))
            script = await launcher.start(
                settings, lambda _: loops.append(asyncio.get_running_loop())
            )
            bench.arrays(await script.run(bench.task()))
            assert loops == [asyncio.get_running_loop()]

    asyncio.run(main())


PROGRAM = """
    import asyncio, os, sys
    from pathlib import Path
    from covey.actors.jobs.launchers.inline import InlineLauncher
    from covey.actors.jobs.launchers.script import ScriptSettings
    from covey.client.messages import Task

    async def main():
        folder = Path(sys.argv[1])
        model = folder / "model.safetensors"
        launcher = InlineLauncher()
        settings = ScriptSettings(
            "site-1", "job", folder / "client.py", folder, os.environ, folder / "log", 1, "numpy")
        script = await launcher.start(settings, print)
        try:
            outcome = await script.run(
                Task("evaluate", 0, 1, str(model), model.stat().st_size))
            print("answer", outcome.answer.metrics["x"])
        finally:
            await launcher.close()

    asyncio.run(main())
"""


def program(bench: Bench) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(PROGRAM), str(bench.folder)]


@pytest.mark.parametrize(
    "how", ["breakpoint()", "import pdb; pdb.Pdb(stdout=sys.__stdout__).set_trace()"]
)
def test_a_debugger_stops_in_the_script_on_the_real_terminal(bench: Bench, how: str) -> None:
    bench.script(
        f"""
        import sys
        import covey.client as flare
        flare.init()
        model = flare.receive()
        value = 1
        {how}
        flare.send(flare.FLModel(metrics={{"x": value}}))
        """
    )
    done = subprocess.run(
        program(bench), input="value = 42\nnext\ncontinue\n", capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1].endswith("answer 42.0"), done.stdout + done.stderr
    assert "(Pdb)" in done.stdout
    assert "client.py(" in done.stdout


def test_ctrl_c_ends_the_script_and_then_the_program(bench: Bench) -> None:
    bench.script(
        """
        import sys, time
        import covey.client as flare
        flare.init()
        flare.receive()
        print("at work", file=sys.__stdout__, flush=True)
        time.sleep(600)
        """
    )
    with subprocess.Popen(
        program(bench), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "at work\n"
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    assert running.returncode != 0
    assert "SIGINT" in errors or "KeyboardInterrupt" in errors


def test_killing_a_script_runs_its_finally_blocks(bench: Bench) -> None:
    text = """
        import covey.client as flare
        flare.init()
        try:
            while flare.is_running():
                flare.send(flare.receive())
        finally:
            print("cleaned up")
    """

    async def main() -> None:
        async with bench.running("inline", bench.settings(bench.script(text))) as script:
            bench.arrays(await script.run(bench.task()))

    asyncio.run(main())
    assert bench.log().read_text() == "cleaned up\n"


def test_errors_after_the_last_task_are_told_by_stop(bench: Bench) -> None:
    text = """
        import covey.client as flare
        flare.init()
        while flare.is_running():
            flare.send(flare.receive())
        raise OSError("cannot save")
    """

    async def main() -> None:
        async with bench.running("inline", bench.settings(bench.script(text))) as script:
            bench.arrays(await script.run(bench.task()))
            assert isinstance(await script.stop(1), ScriptFailed)

    asyncio.run(main())


def test_a_log_that_cannot_be_opened_is_an_error_at_the_start(bench: Bench) -> None:
    async def main() -> None:
        settings = bench.settings(bench.script("pass"), site="no/such/folder")
        with pytest.raises(LauncherError, match="the log of no/such/folder"):
            await InlineLauncher().start(settings, print)

    asyncio.run(main())
