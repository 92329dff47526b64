"""The room stands alone: no torch, no safetensors, nothing of covey, no I/O that waits."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import covey.algorithms
import covey.algorithms.errors as errors
import covey.algorithms.tensors

ROOM = Path(covey.algorithms.__file__).parent


def run(code: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_importing_the_room_imports_neither_torch_nor_safetensors() -> None:
    run("""
        import sys
        import covey.algorithms, covey.algorithms.tensors
        found = {"torch", "safetensors", "ml_dtypes", "asyncio"} & set(sys.modules)
        sys.exit(repr(found) if found else 0)
    """)


def test_a_numpy_model_lives_its_whole_life_without_torch() -> None:
    run("""
        import os, sys, tempfile
        import numpy as np
        from covey.algorithms import Contribution, FedAvg, fold
        from covey.algorithms.tensors import *
        state = {"w": np.ones((3, 4), np.float32), "n": np.int64(3)}
        model = load_initial(state)
        with tempfile.TemporaryFile() as file:
            model.write(file.fileno())
            views = Packer(model.layout).unpack(map_private(file.fileno()))
        views["w"] += 1
        packer = Packer(model.layout)
        out = bytearray()
        fold(packer.pack(state), model.layout,
             [Contribution("s", 1.0, ParamsType.FULL, packer.pack(views))], FedAvg(), out.extend)
        assert packer.unpack(out)["w"][0, 0] == 2
        sys.exit("torch" in sys.modules)
    """)


def test_a_numpy_model_is_trained_asynchronously_without_torch() -> None:
    run("""
        import sys
        import numpy as np
        from covey.algorithms import Adam, Buffer, FedBuff, UpdateInfo, apply, new_state
        from covey.algorithms.tensors import Layout, Packer, ParamsType
        state = {"w": np.ones((300, 400), np.float32), "n": np.int64(3)}
        packer = Packer(Layout.of(state))
        rule = FedBuff(buffer_size=2, optimizer=Adam())
        buffer = Buffer(rule.answers(packer.layout), rule.params_type)
        for staleness in (0, 3):
            weight = rule.weigh(UpdateInfo("s", 1.0, staleness))
            buffer.add(packer.pack(state), weight, ParamsType.DIFF, staleness=staleness)
        out, kept = bytearray(), new_state(packer.layout, rule)
        apply(packer.pack(state), packer.layout, buffer.swap(), rule, out.extend, state=kept)
        assert packer.unpack(out)["w"][0, 0] > 1
        sys.exit("torch" in sys.modules)
    """)


def test_a_job_process_folds_a_torch_model_without_torch() -> None:
    run("""
        import sys
        import numpy as np
        from covey.algorithms import Contribution, FedAvg, fold
        from covey.algorithms.tensors import DTYPES, Layout, ParamsType
        layout = Layout.canonical([(n, t, (5,)) for n, t in DTYPES.items()], "torch")
        blob = layout.header + bytes(layout.data_size)
        again = Layout.parse(blob)
        out = bytearray()
        fold(blob, again, [Contribution("s", 1.0, ParamsType.DIFF, blob)] * 2, FedAvg(), out.extend)
        assert out == blob
        sys.exit("torch" in sys.modules)
    """)


def test_nothing_of_covey_is_imported_from_outside_and_nothing_waits() -> None:
    for file in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await)
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] not in {"covey", "pickle", "asyncio"}
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {"covey", "pickle"}


def test_public_names_exist_and_are_documented() -> None:
    for module in (covey.algorithms, covey.algorithms.tensors):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__doc__, name


def test_errors_are_one_tree_with_data() -> None:
    for name in ("BadSetting", "BadHeader", "BadUpdate", "UnsafeFile"):
        assert issubclass(getattr(errors, name), errors.AlgorithmError)
    error = errors.NonFiniteUpdate("site-2", "w", "NaN")
    assert (error.site, error.tensor, str(error)) == (
        "site-2", "w", "tensor 'w': NaN in the update of site-2",
    )  # fmt: skip
    assert isinstance(errors.BadSetting("x", "y"), ValueError)
