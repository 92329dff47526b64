"""What every launcher promises, tried on each with the same scripts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from covey.actors.jobs.launchers.errors import ScriptDied, ScriptEnded, ScriptFailed
from covey.actors.jobs.launchers.script import ScriptSettings
from covey.client.messages import Metric

if TYPE_CHECKING:
    from tests.actors.jobs.conftest import Bench, LauncherKind

KINDS = ["fork", "spawn", "inline"]

ADD_ONE = """
    import numpy as np
    import covey.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        params = {name: value + 1 + model.current_round for name, value in model.params.items()}
        flare.send(flare.FLModel(
            params=params,
            metrics={"loss": np.float32(0.5), "n": 3},
            meta={"NUM_STEPS_CURRENT_ROUND": np.int64(4), "note": "x", "on": True},
        ))
    print("finished")
"""


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_are_answered_one_after_the_other(bench: Bench, kind: LauncherKind) -> None:
    async def main() -> None:
        async with bench.running(kind, bench.settings(bench.script(ADD_ONE))) as script:
            for round in range(3):
                outcome = await script.run(bench.task(round))
                assert outcome.answer.round == round
                assert outcome.answer.metrics == {"loss": 0.5, "n": 3.0}
                assert outcome.answer.meta == {
                    "NUM_STEPS_CURRENT_ROUND": 4,
                    "note": "x",
                    "on": True,
                }
                arrays = bench.arrays(outcome)
                assert np.array_equal(arrays["w"], np.full((2, 3), round + 1.0))
                assert np.array_equal(arrays["b"], np.full(2, round + 1.0))
            assert await script.stop(10) is None
            assert await script.wait() is None
            assert script.pid is None
        assert bench.log().read_text() == "finished\n"

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_the_global_model_is_not_changed_by_writing_to_it(bench: Bench, kind: LauncherKind) -> None:
    text = """
        import covey.client as flare
        flare.init()
        while flare.is_running():
            model = flare.receive()
            for value in model.params.values():
                value += 5
            flare.send(model)
    """

    async def main() -> None:
        before = bench.model.read_bytes()
        async with bench.running(kind, bench.settings(bench.script(text))) as script:
            arrays = bench.arrays(await script.run(bench.task()))
            assert arrays["b"].tolist() == [5.0, 5.0]
            assert await script.stop(10) is None
        assert bench.model.read_bytes() == before

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_has_its_own_arguments_environment_folder_and_path(
    bench: Bench, kind: LauncherKind
) -> None:
    bench.script("value = 'local module'", "src/beside.py")
    text = """
        import os, sys
        import beside
        import covey.client as flare
        flare.init()
        flare.receive()
        flare.send(flare.FLModel(metrics={}, meta={
            "argv": repr(sys.argv), "env": os.environ["OWN"], "cwd": os.getcwd(),
            "gpus": os.environ["CUDA_VISIBLE_DEVICES"], "path": sys.path[0], "name": __name__,
            "file": __file__, "main": sys.modules["__main__"].beside.value,
            "home": os.environ.get("HOME", "none"), "info": repr(flare.system_info()),
            "config": repr(flare.get_config()), "site": flare.get_site_name(),
            "job": flare.get_job_id(), "task": flare.get_task_name(),
        }))
    """
    script = bench.script(text, "src/client.py")
    settings = bench.settings(
        script, env={"OWN": "mine", "PATH": os.environ["PATH"]}, args=("--a", "b c"), gpus=(1, 3)
    )

    async def main() -> None:
        async with bench.running(kind, settings) as running:
            meta = (await running.run(bench.task(name="evaluate"))).answer.meta
            await running.stop(10)
        assert meta == {
            "argv": repr([str(script), "--a", "b c"]),
            "env": "mine",
            "cwd": str(bench.folder),
            "gpus": "1,3",
            "path": str(script.parent),
            "name": "__main__",
            "file": str(script),
            "main": "local module",
            "home": "none",
            "info": "{'job_id': 'job-1', 'site_name': 'site-1'}",
            "config": "{'job_id': 'job-1', 'site_name': 'site-1', 'lr': 0.5}",
            "site": "site-1",
            "job": "job-1",
            "task": "evaluate",
        }

    before = (
        list(sys.argv),
        dict(os.environ),
        os.getcwd(),
        list(sys.path),
        sys.modules["__main__"],
    )
    asyncio.run(main())
    after = (list(sys.argv), dict(os.environ), os.getcwd(), list(sys.path), sys.modules["__main__"])
    assert before == after
    assert "beside" not in sys.modules


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_streamed(bench: Bench, kind: LauncherKind) -> None:
    text = """
        import threading
        import covey.client as flare
        from covey.client.tracking import SummaryWriter
        writer = SummaryWriter()
        flare.init()
        model = flare.receive()
        writer.add_scalar("loss", 0.25, global_step=3)
        thread = threading.Thread(target=flare.log, args=("from thread", 1))
        thread.start(); thread.join()
        writer.add_text("note", "hello")
        flare.send(model)
    """

    async def main() -> None:
        async with bench.running(kind, bench.settings(bench.script(text))) as script:
            await script.run(bench.task())
            await script.stop(10)

    asyncio.run(main())
    assert sorted(bench.metrics, key=lambda metric: metric.key) == [
        Metric("from thread", 1.0),
        Metric("loss", 0.25, 3),
        Metric("note", "hello", None, "text"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_is_told_with_the_users_own_line(bench: Bench, kind: LauncherKind) -> None:
    bench.script(
        """
        def work(n):
            return [][n]
        """,
        "helpers.py",
    )
    text = """
        import covey.client as flare
        import helpers
        flare.init()
        while flare.is_running():
            model = flare.receive()
            if model.current_round == 1:
                helpers.work(9)
            flare.send(model)
    """

    async def main() -> ScriptFailed:
        async with bench.running(kind, bench.settings(bench.script(text))) as script:
            await script.run(bench.task(0))
            with pytest.raises(ScriptFailed) as caught:
                await script.run(bench.task(1))
            with pytest.raises(ScriptFailed):
                await script.run(bench.task(2))
            assert isinstance(await script.stop(10), ScriptFailed)
            return caught.value

    error = asyncio.run(main())
    assert error.site == "site-1"
    assert error.fault.kind == "IndexError"
    assert error.fault.file == str(bench.folder / "helpers.py")
    assert error.fault.line == 3
    assert error.fault.source_line == "return [][n]"
    assert str(error).splitlines()[-2:] == [
        f'  File "{bench.folder}/helpers.py", line 3',
        "    return [][n]",
    ]
    first = error.fault.traceback.splitlines()[1]
    assert first == f'  File "{bench.folder}/client.py", line 8, in <module>'
    assert "IndexError" in bench.log().read_text()


ENDS = {
    "raise before init": ("raise ValueError('early')", ScriptFailed, "ValueError: early"),
    "syntax error": ("def f(:", ScriptFailed, "def f(:"),
    "missing module": ("import nowhere_to_be_found", ScriptFailed, "import nowhere_to_be_found"),
    "no loop": ("print('nothing')", ScriptEnded, "without answering"),
    "exit well": ("import sys; sys.exit()", ScriptEnded, "without answering"),
    "exit with a code": ("import sys\nsys.exit(3)", ScriptFailed, "sys.exit(3)"),
    "exit with text": ("import sys\nsys.exit('no data')", ScriptFailed, "sys.exit('no data')"),
    "arguments that it does not know": (
        "import argparse\np = argparse.ArgumentParser(prog='client.py')\n"
        "p.add_argument('--lr', required=True)\np.parse_args()",
        ScriptFailed,
        "SystemExit: sys.exit(2), after printing: client.py: error: the following arguments are "
        "required: --lr\n  usage: client.py [-h] --lr LR",
    ),
    "send first": (
        "import covey.client as f\nf.init()\nf.send(f.FLModel(metrics={}))",
        ScriptFailed,
        "there is nothing to answer; call receive() first",
    ),
    "no init": ("import covey.client as f\nf.receive()", ScriptFailed, "call covey.client.init()"),
    "never answers": (
        "import covey.client as f\nf.init()\nwhile f.is_running():\n    f.receive()",
        ScriptFailed,
        "never answered",
    ),
    "receives for ever": (
        "import covey.client as f\nf.init()\nwhile True:\n    m = f.receive()",
        ScriptFailed,
        "never answered",
    ),
    "nan": (
        "import covey.client as f\nf.init()\nm = f.receive()\nm.params['b'][0] = float('nan')\n"
        "f.send(m)",
        ScriptFailed,
        "params['b']: contains NaN",
    ),
    "shape": (
        "import numpy as np, covey.client as f\nf.init()\nm = f.receive()\n"
        "f.send(f.FLModel(params={**m.params, 'w': np.zeros(3)}))",
        ScriptFailed,
        "params['w']: has shape [3], expected [2, 3]",
    ),
    "name": (
        "import covey.client as f\nf.init()\nm = f.receive()\nm.params['bb'] = m.params.pop('b')\n"
        "f.send(m)",
        ScriptFailed,
        "params['b']: is missing",
    ),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("kind", ["fork", "inline"])
def test_every_way_to_fail_is_told_apart(bench: Bench, kind: LauncherKind, how: str) -> None:
    text, expected, words = ENDS[how]
    script = bench.folder / "client.py"
    script.write_text(text)

    async def main() -> None:
        async with bench.running(kind, bench.settings(script)) as running:
            with pytest.raises(expected) as caught:
                await running.run(bench.task())
            assert words in str(caught.value)
            if isinstance(caught.value, ScriptFailed):
                last = text.splitlines()[-1].strip()
                assert caught.value.fault.source_line == last
                assert str(caught.value).splitlines()[-1].strip() == last

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_two_scripts_share_nothing(bench: Bench, kind: LauncherKind) -> None:
    bench.script("count = 0", "state.py")
    text = """
        import os, sys
        import covey.client as flare
        import state
        flare.init()
        while flare.is_running():
            model = flare.receive()
            state.count += 1
            os.environ["COUNT"] = os.environ.get("COUNT", "") + "+"
            sys.argv.append("x")
            flare.send(flare.FLModel(metrics={}, meta={
                "count": state.count, "env": os.environ["COUNT"], "argv": len(sys.argv)}))
    """
    path = bench.script(text)

    async def main() -> None:
        async with bench.launcher(kind) as launcher:
            first = await launcher.start(bench.settings(path, "site-1"), bench.metrics.append)
            second = await launcher.start(bench.settings(path, "site-2"), bench.metrics.append)
            for round in range(3):
                for script in (first, second):
                    answer = (await script.run(bench.task(round, "evaluate"))).answer
                    count = round + 1
                    assert answer.meta == {"count": count, "env": "+" * count, "argv": count + 1}
            await first.stop(10)
            await second.stop(10)

    asyncio.run(main())


def test_random_numbers_depend_on_seed_site_and_round_alone(bench: Bench) -> None:
    text = """
        import random
        import numpy as np
        import covey.client as flare
        start = [random.random(), np.random.rand()]
        flare.init()
        while flare.is_running():
            model = flare.receive()
            meta = {"python": random.random(), "numpy": np.random.rand(),
                    "start": start[0], "start numpy": start[1]}
            flare.send(flare.FLModel(metrics={}, meta=meta))
    """
    path = bench.script(text)

    async def draws(kind: LauncherKind, site: str, rounds: list[int]) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        async with bench.running(kind, bench.settings(path, site)) as script:
            for round in rounds:
                found.append(dict((await script.run(bench.task(round, "evaluate"))).answer.meta))
            await script.stop(10)
        return found

    async def main() -> None:
        whole = await draws("fork", "site-1", [0, 1, 2])
        assert await draws("fork", "site-1", [1, 2]) == whole[1:]
        assert await draws("spawn", "site-1", [0, 1, 2]) == whole
        assert await draws("inline", "site-1", [0, 1, 2]) == whole
        other = await draws("fork", "site-2", [0])
        values = [value for draw in [*whole, *other] for value in draw.values()]
        assert len(set(values)) == 4 * 2 + 2 * 2

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_lines_are_echoed_whole_and_with_their_prefix(bench: Bench, kind: LauncherKind) -> None:
    text = """
        import sys
        print("one\\ntwo")
        sys.stdout.write("three ")
        sys.stdout.write("parts\\n")
        print("\\N{SNOWMAN} last", end="")
    """
    settings = bench.settings(bench.script(text), echo="[site-1] ")

    async def main() -> None:
        async with bench.running(kind, settings) as script:
            with pytest.raises(ScriptEnded):
                await script.run(bench.task())
            assert await script.wait() is None

    asyncio.run(main())
    shown = "".join(bench.shown)
    lines = ["one", "two", "three parts", "\N{SNOWMAN} last"]
    assert shown.rstrip("\n").split("\n") == [f"[site-1] {line}" for line in lines]
    assert bench.log().read_text() == "\n".join(lines)


@pytest.mark.parametrize("kind", KINDS)
def test_excluded_variables_may_be_left_out_and_are_not_sent(
    bench: Bench, kind: LauncherKind
) -> None:
    text = """
        import covey.client as flare
        flare.init()
        model = flare.receive()
        flare.send(flare.FLModel(params={"b": model.params["b"] + 1}))
    """
    settings = bench.settings(bench.script(text), exclude=("w",))

    async def main() -> None:
        async with bench.running(kind, settings) as script:
            outcome = await script.run(bench.task())
            layout = bench.layout.without(["w"])
            assert outcome.blob is not None
            with outcome.blob as blob:
                assert blob.size == layout.size
                assert bytes(blob.buffer[: layout.data_start]) == layout.header
            await script.stop(10)

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_killing_a_script_that_waits_ends_it(bench: Bench, kind: LauncherKind) -> None:
    async def main() -> None:
        async with bench.running(kind, bench.settings(bench.script(ADD_ONE))) as script:
            outcome = await script.run(bench.task())
            bench.arrays(outcome)
            script.kill()
            script.kill()
            assert await script.wait() is None
            assert await script.stop(1) is None
            with pytest.raises(ScriptDied):
                await script.run(bench.task(1))

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_closing_a_launcher_ends_its_scripts(bench: Bench, kind: LauncherKind) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            launcher = await stack.enter_async_context(bench.launcher(kind))
            path = bench.script(ADD_ONE)
            settings = [bench.settings(path, f"site-{n}") for n in range(3)]
            scripts = [await launcher.start(one, bench.metrics.append) for one in settings]
            pids = [script.pid for script in scripts]
            bench.arrays(await scripts[0].run(bench.task()))
            await launcher.close()
            await launcher.close()
            for pid, script in zip(pids, scripts, strict=True):
                assert await script.wait() is None
                if pid is not None:
                    with pytest.raises(ProcessLookupError):
                        os.kill(pid, 0)

    asyncio.run(main())


def test_settings_need_little(bench: Bench) -> None:
    settings = ScriptSettings(
        "site-1", "job-1", bench.folder / "c.py", bench.folder, {}, bench.log(), 1, "numpy"
    )
    assert settings.torch_threads == 1
    assert settings.echo is None
