"""Scripts in forked processes: real processes, real kills."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from covey.actors.jobs.launchers.errors import BadAnswer, ScriptDied, ScriptFailed
from covey.actors.jobs.launchers.fork import (
    FORK_IS_SAFE,
)
from covey.client.messages import Metric, Task

if TYPE_CHECKING:
    from tests.actors.jobs.conftest import Bench

pytestmark = pytest.mark.skipif(not FORK_IS_SAFE, reason="fork is not safe on this system")


DEATHS = {
    "os._exit(5)": (5, None),
    "os._exit(0)": (0, None),
    "os.kill(os.getpid(), signal.SIGKILL)": (None, signal.SIGKILL),
    "os.kill(os.getpid(), signal.SIGSEGV)": (None, signal.SIGSEGV),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_process_that_ends_without_a_word_is_told_by_code_or_signal(
    bench: Bench, death: str
) -> None:
    code, number = DEATHS[death]

    async def main() -> None:
        async with bench.running("fork", bench.settings(bench.loop(death))) as script:
            with pytest.raises(ScriptDied) as caught:
                await script.run(bench.task())
            assert caught.value.exit_code == code
            assert caught.value.signal == number
            with pytest.raises(ScriptDied):
                await script.run(bench.task())
            assert isinstance(await script.wait(), ScriptDied)

    asyncio.run(main())


def test_a_kill_from_outside_in_the_middle_of_a_task_is_told_at_once(bench: Bench) -> None:
    async def main() -> None:
        path = bench.loop("flare.log('at work', 1); time.sleep(60)")
        at_work = asyncio.Event()
        async with bench.launcher("fork") as launcher:
            script = await launcher.start(bench.settings(path), lambda metric: at_work.set())
            running = asyncio.create_task(script.run(bench.task()))
            await at_work.wait()
            assert script.pid is not None
            os.kill(script.pid, signal.SIGKILL)
            with pytest.raises(ScriptDied) as caught:
                await running
            assert caught.value.signal == signal.SIGKILL
            assert "SIGKILL" in str(caught.value)

    asyncio.run(main())


def test_processes_that_a_script_leaves_behind_end_with_it(
    bench: Bench, alive: Callable[[int], bool]
) -> None:
    work = "flare.log('child', subprocess.Popen(['sleep', '600']).pid)"
    path = bench.loop(work, "subprocess")

    async def main() -> None:
        async with bench.running("fork", bench.settings(path)) as script:
            bench.arrays(await script.run(bench.task()))
            value = bench.metrics[0].value
            assert isinstance(value, float)
            assert alive(int(value))
            assert await script.stop(10) is None

    asyncio.run(main())
    value = bench.metrics[0].value
    assert isinstance(value, float)
    assert not alive(int(value))


def test_a_script_that_does_not_stop_is_killed_after_the_grace(bench: Bench) -> None:
    path = bench.loop("pass", after="time.sleep(600)")

    async def main() -> None:
        async with bench.running("fork", bench.settings(path)) as script:
            bench.arrays(await script.run(bench.task()))
            assert await script.stop(0.1) is None
            assert script.pid is None

    asyncio.run(main())


def test_errors_after_the_last_task_are_told_by_stop(bench: Bench) -> None:
    path = bench.loop("pass", after="raise OSError('cannot save')")

    async def main() -> None:
        async with bench.running("fork", bench.settings(path)) as script:
            bench.arrays(await script.run(bench.task()))
            error = await script.stop(10)
            assert isinstance(error, ScriptFailed)
            assert error.fault.source_line == "raise OSError('cannot save')"

    asyncio.run(main())


def test_a_script_runs_its_own_exit_hooks_and_flushes(bench: Bench) -> None:
    text = """
        import atexit, threading, time
        import covey.client as flare
        atexit.register(print, "hook", end="")
        flare.init()
        while flare.is_running():
            flare.send(flare.receive())
        threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
    """

    async def main() -> None:
        async with bench.running("fork", bench.settings(bench.script(text))) as script:
            bench.arrays(await script.run(bench.task()))
            assert await script.stop(10) is None

    asyncio.run(main())
    assert bench.log().read_text() == "thread\nhook"


def test_scripts_run_under_uvloop(bench: Bench) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        settings = bench.settings(bench.loop("print('here')"), echo="> ")
        async with bench.running("fork", settings) as script:
            for round in range(2):
                bench.arrays(await script.run(bench.task(round)))
            assert await script.stop(10) is None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    assert "".join(bench.shown) == "> here\n" * 2


FORGERIES = {
    "unsealed": "fd = os.memfd_create('x'); os.write(fd, bytes(128)); say(size=128, fds=(fd,))",
    "another size": "say(size=4, fds=(os.memfd_create('x'),))",
    "no file": "say(size=128, fds=())",
    "another round": "say(round=9, fds=(), has_tensors=False)",
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_answer_that_breaks_the_rules_ends_the_script(bench: Bench, forgery: str) -> None:
    text = f"""
        import os, time
        import covey.client as flare
        from covey.client import session
        from covey.client.messages import Answer
        def say(round=0, size=0, fds=(), has_tensors=True):
            answer = Answer("train", round, size=size, has_tensors=has_tensors)
            session._current._channel.send(answer, fds)
        flare.init()
        flare.receive()
        {FORGERIES[forgery]}
        time.sleep(60)
    """

    async def main() -> None:
        async with bench.running("fork", bench.settings(bench.script(text))) as script:
            with pytest.raises(BadAnswer):
                await script.run(bench.task())
            assert isinstance(await script.wait(), BadAnswer)

    asyncio.run(main())


def test_a_cancelled_start_leaves_no_process(bench: Bench) -> None:
    async def main() -> None:
        async with bench.launcher("fork") as launcher:
            path = bench.loop("pass")
            starting = asyncio.ensure_future(launcher.start(bench.settings(path), print))
            await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            script = await launcher.start(bench.settings(path), bench.metrics.append)
            bench.arrays(await script.run(bench.task()))

    asyncio.run(main())


def test_a_script_written_for_another_framework_runs_by_its_import_lines(bench: Bench) -> None:
    """The loop of NVIDIA FLARE's hello-numpy client, with cross-site evaluation."""
    text = """
        import argparse
        import copy
        import numpy as np
        import covey.client as flare
        from covey.client.tracking import SummaryWriter

        def train(input_np_arr):
            return input_np_arr + 1

        def evaluate(input_np_arr):
            return np.mean(input_np_arr)

        def main():
            flare.init()
            sys_info = flare.system_info()
            print(f"system info is: {sys_info}", flush=True)
            summary_writer = SummaryWriter()
            best = None
            while flare.is_running():
                input_model = flare.receive()
                print(f"current_round={input_model.current_round}")
                if flare.is_train():
                    input_np_arr = input_model.params["w"]
                    metrics = evaluate(input_np_arr)
                    best = train(input_np_arr)
                    summary_writer.add_scalar(
                        tag="accuracy", scalar=metrics, global_step=input_model.current_round)
                    flare.send(flare.FLModel(
                        params={"w": best, "b": input_model.params["b"]},
                        params_type=flare.ParamsType.FULL,
                        metrics={"accuracy": metrics},
                        meta={"NUM_STEPS_CURRENT_ROUND": 10},
                        current_round=input_model.current_round,
                    ))
                elif flare.is_evaluate():
                    accuracy = evaluate(input_model.params["w"])
                    flare.send(flare.FLModel(metrics={"accuracy": accuracy}))
                elif flare.is_submit_model():
                    flare.send(flare.FLModel(params={"w": best, "b": np.zeros(2)}))

        if __name__ == "__main__":
            main()
    """

    async def main() -> None:
        async with bench.running("fork", bench.settings(bench.script(text))) as script:
            assert bench.arrays(await script.run(bench.task(0)))["w"].tolist() == [[1] * 3] * 2
            evaluated = (await script.run(bench.task(1, "evaluate"))).answer
            assert (evaluated.metrics, evaluated.has_tensors) == ({"accuracy": 0.0}, False)
            submitted = await script.run(Task("submit_model", 2, 3))
            assert bench.arrays(submitted)["w"].tolist() == [[1] * 3] * 2
            assert await script.stop(10) is None

    asyncio.run(main())
    assert bench.metrics == [Metric("accuracy", 0.0, 0)]


def test_a_numpy_run_never_imports_torch(bench: Bench) -> None:
    text = """
        import sys
        import numpy
        import covey.client as flare
        flare.init()
        flare.receive()
        flare.send(flare.FLModel(metrics={}, meta={"torch": "torch" in sys.modules}))
    """

    async def main() -> None:
        async with bench.running("fork", bench.settings(bench.script(text))) as script:
            answer = (await script.run(bench.task(name="evaluate"))).answer
            assert answer.meta == {"torch": False}

    asyncio.run(main())
