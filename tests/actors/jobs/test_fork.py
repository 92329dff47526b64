"""The template and its clients: real processes, real kills."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from covey.actors.jobs.launchers import control
from covey.actors.jobs.launchers.control import Loaded
from covey.actors.jobs.launchers.errors import BadAnswer, LauncherError, ScriptDied, ScriptFailed
from covey.actors.jobs.launchers.fork import (
    FORK_IS_SAFE,
    ForkedProcess,
    ForkLauncher,
    Template,
)
from covey.client.messages import Metric, Task

if TYPE_CHECKING:
    from tests.actors.jobs.conftest import Bench

pytestmark = pytest.mark.skipif(not FORK_IS_SAFE, reason="fork is not safe on this system")

LOOP = """
    import {imports}
    import covey.client as flare
    flare.init()
    while flare.is_running():
        model = flare.receive()
        {work}
        flare.send(model)
"""


def loop(work: str, imports: str = "os, signal, time") -> str:
    return LOOP.format(imports=imports, work=work)


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
        async with bench.running("fork", bench.settings(bench.script(loop(death)))) as script:
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
        text = loop("flare.log('at work', 1); time.sleep(60)")
        at_work = asyncio.Event()
        async with bench.launcher("fork") as launcher:
            script = await launcher.start(
                bench.settings(bench.script(text)), lambda metric: at_work.set()
            )
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
    text = loop(work, "subprocess")

    async def main() -> None:
        async with bench.running("fork", bench.settings(bench.script(text))) as script:
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
    text = loop("pass") + "\n    time.sleep(600)\n"

    async def main() -> None:
        async with bench.running("fork", bench.settings(bench.script(text))) as script:
            bench.arrays(await script.run(bench.task()))
            assert await script.stop(0.1) is None
            assert script.pid is None

    asyncio.run(main())


def test_errors_after_the_last_task_are_told_by_stop(bench: Bench) -> None:
    text = loop("pass") + "\n    raise OSError('cannot save')\n"

    async def main() -> None:
        async with bench.running("fork", bench.settings(bench.script(text))) as script:
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
        settings = bench.settings(bench.script(loop("print('here')")), echo="> ")
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
            path = bench.script(loop("pass"))
            starting = asyncio.ensure_future(launcher.start(bench.settings(path), print))
            await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            script = await launcher.start(bench.settings(path), bench.metrics.append)
            bench.arrays(await script.run(bench.task()))

    asyncio.run(main())


def test_the_death_of_the_template_ends_its_clients(
    bench: Bench, gone: Callable[[int], None]
) -> None:
    async def main() -> None:
        launcher = ForkLauncher(Template.launch(["numpy"]))
        path = bench.script(loop("time.sleep(60)"))
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
            path = bench.script(loop("pass"))
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
        script = await launcher.start(bench.settings(bench.script(loop("pass"))), print)
        bench.arrays(await script.run(bench.task()))
        await launcher.close()

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
        settings = bench.settings(bench.script(loop("pass", "threaded_module")))
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
            await launcher.start(bench.settings(bench.script(loop("pass"))), print)
        await launcher.close()

    asyncio.run(main())


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


TORCH = """
    import argparse
    import torch
    from torch import nn
    import covey.client as flare
    from covey.client.tracking import SummaryWriter

    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    args = parser.parse_args()
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
    start = float(net.weight.sum())
    writer = SummaryWriter()
    flare.init()
    while flare.is_running():
        model = flare.receive()
        net.load_state_dict({"weight": model.params["w"], "bias": model.params["b"]})
        x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        writer.add_scalar("loss", loss, global_step=model.current_round)
        params = {"w": net.weight, "b": net.bias.detach().numpy()}
        flare.send(flare.FLModel(
            params=params, metrics={"loss": loss},
            meta={"threads": torch.get_num_threads(), "start": start, "draw": torch.rand(())},
        ))
"""


def test_thirty_two_torch_clients_run_from_one_template_and_leave_nothing(bench: Bench) -> None:
    path = bench.script(TORCH)
    shared = set(os.listdir("/dev/shm"))

    async def main() -> list[int | None]:
        launcher = ForkLauncher(Template.launch(["torch", "torch:nn"]))
        settings = [
            bench.settings(
                path, f"site-{n}", kind="torch", args=("--lr", "0.1"), torch_threads=1 + n % 2
            )
            for n in range(32)
        ]
        scripts = [await launcher.start(one, bench.metrics.append) for one in settings]
        pids = [script.pid for script in scripts]
        starts: set[object] = set()
        for round in range(2):
            outcomes = await asyncio.gather(*(s.run(bench.task(round)) for s in scripts))
            draws = {outcome.answer.meta["draw"] for outcome in outcomes}
            assert len(draws) == 32
            starts = {outcome.answer.meta["start"] for outcome in outcomes}
            assert [o.answer.meta["threads"] for o in outcomes] == [1 + n % 2 for n in range(32)]
            for outcome in outcomes:
                assert np.any(bench.arrays(outcome)["w"] != 0)
        assert len(starts) == 32
        assert set(await asyncio.gather(*(s.stop(20) for s in scripts))) == {None}
        await launcher.close()
        return [*pids, launcher.template.pid]

    for pid in asyncio.run(main()):
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert len(bench.metrics) == 64
    assert set(os.listdir("/dev/shm")) <= shared


@pytest.mark.parametrize("other", ["spawn", "inline"])
def test_torch_gives_the_same_bits_by_every_launcher(bench: Bench, other: str) -> None:
    bench.script(TORCH)
    program = bench.folder / "compare.py"
    program.write_text(textwrap.dedent(COMPARE))
    Path(bench.folder / "other.py").write_text(f"KIND = {other!r}\n")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert first == second


COMPARE = """
    import asyncio, os
    from pathlib import Path
    import torch
    from covey.actors.jobs.launchers.fork import ForkLauncher, Template
    from covey.actors.jobs.launchers.inline import InlineLauncher
    from covey.actors.jobs.launchers.script import ScriptSettings
    from covey.actors.jobs.launchers.spawn import SpawnLauncher
    from covey.client.messages import Task
    from other import KIND

    folder = Path(__file__).parent
    model = folder / "model.safetensors"
    kinds = {
        "fork": lambda: ForkLauncher(Template.launch(["torch"])),
        "spawn": lambda: SpawnLauncher(["torch"]),
        "inline": lambda: InlineLauncher(["torch"]),
    }

    async def digest(kind):
        launcher = kinds[kind]()
        settings = ScriptSettings(
            "site-1", "job", folder / "client.py", folder, os.environ, folder / "log", 3, "torch",
            args=("--lr", "0.1"))
        script = await launcher.start(settings, lambda metric: None)
        found = b""
        for round in range(3):
            outcome = await script.run(Task("train", round, 3, str(model), model.stat().st_size))
            found += bytes(outcome.blob.buffer) + repr(outcome.answer).encode()
            outcome.blob.close()
        assert await script.stop(20) is None
        await launcher.close()
        return hash(found)

    torch.rand(7)
    torch.set_num_threads(2)
    for kind in ("fork", KIND):
        print(asyncio.run(digest(kind)))
    assert torch.get_num_threads() == 2
"""


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
