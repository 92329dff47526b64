"""Model files: mapping, reading layouts, and refusing what can run code, by content."""

# The stubs of torch and safetensors are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import functools
import io
import mmap
import os
import pickle
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from covey.algorithms.errors import BadHeader, BadSetting, BadUpdate, UnsafeFile
from covey.algorithms.tensors import Layout, Packer, load_initial, map_private, read_layout


class Trap:
    """Unpickling this would leave a mark."""

    sprung = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return (spring, ())


def spring() -> None:
    Trap.sprung = True


def blob_of(source: object, path: Path) -> bytes:
    with path.open("wb") as file:
        load_initial(source).write(file.fileno())
    return path.read_bytes()


def test_a_private_mapping_never_changes_its_file(tmp_path: Path) -> None:
    state = {"x": torch.arange(5000.0)}
    path = tmp_path / "model"
    path.write_bytes(Packer(Layout.of(state)).pack(state))
    before = path.read_bytes()
    views = Packer(Layout.of(state)).unpack(map_private(path))
    views["x"] += 1
    assert views["x"][1] == 2
    assert path.read_bytes() == before
    fd = os.open(path, os.O_RDONLY)
    try:
        mapping: mmap.mmap = map_private(fd)
    finally:
        os.close(fd)
    assert bytes(mapping) == before


def test_an_empty_file_cannot_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(BadHeader, match="empty"):
        map_private(tmp_path / "x")


def test_a_layout_is_read_from_a_path_or_descriptor(tmp_path: Path) -> None:
    state = {"x": torch.ones(3)}
    path = tmp_path / "model"
    path.write_bytes(Packer(Layout.of(state)).pack(state))
    assert read_layout(path) == Layout.of(state)
    with path.open("rb") as file:
        assert read_layout(file.fileno()) == Layout.of(state)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadHeader, match="tensors end"):
        read_layout(path)


def test_a_module_gives_its_actual_weights(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).bfloat16()
    model = load_initial(module)
    assert model.kind == "torch"
    views = Packer(model.layout).unpack(bytearray(blob_of(module, tmp_path / "x")))
    for name, tensor in module.state_dict().items():
        assert torch.equal(views[name], tensor)


def test_what_a_mask_or_a_bug_holds_is_sent_bit_for_bit(tmp_path: Path) -> None:
    bits = np.array([0x7FC0_1234, 0xFF80_0000, 0x8000_0000, 1, 0x7F80_0001], np.uint32)
    state = {"mask": torch.from_numpy(bits.view(np.float32).copy())}
    written = blob_of(state, tmp_path / "x")
    assert written[-20:] == bits.tobytes()
    path = tmp_path / "given.safetensors"
    safetensors.torch.save_file(state, path)
    assert blob_of(path, tmp_path / "y")[-20:] == bits.tobytes()


def test_a_file_in_any_order_becomes_the_canonical_blob(tmp_path: Path) -> None:
    state = {"z": torch.ones(3, dtype=torch.uint8), "a": torch.arange(4.0), "m": torch.tensor(2)}
    path = tmp_path / "given.safetensors"
    safetensors.torch.save_file(state, path, {"format": "pt"})
    model = load_initial(str(path))
    assert [spec.name for spec in model.layout.specs] == ["m", "a", "z"]
    views = Packer(model.layout).unpack(bytearray(blob_of(path, tmp_path / "x")))
    assert all(torch.equal(views[name], state[name]) for name in state)


def test_named_arrays_numbers_and_lists_are_a_model(tmp_path: Path) -> None:
    model = load_initial({"a": np.ones(3, np.float32), "b": 2.5, "c": [[1, 2], [3, 4]]})
    assert model.kind == "numpy"
    assert {s.name: s.describe() for s in model.layout.specs} == {
        "a": "F32 [3]",
        "b": "F64 []",
        "c": "I64 [2, 2]",
    }


def hdf5() -> bytes:
    return b"\x89HDF\r\n\x1a\n" + bytes(100)


def pickled(protocol: int) -> bytes:
    return pickle.dumps({"w": Trap()}, protocol=protocol)


def saved(new: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"w": torch.ones(3)}, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x" * 100)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("tensors"), io.BytesIO())
    return stream.getvalue()


def numpy_saved(archive: bool) -> bytes:
    stream = io.BytesIO()
    (np.savez if archive else np.save)(stream, np.ones(3))
    return stream.getvalue()


UNSAFE: dict[str, tuple[Callable[[], bytes], str]] = {
    **{f"pickle {p}": (functools.partial(pickled, p), "a pickle") for p in range(6)},
    "torch.save": (lambda: saved(True), "torch.save archive"),
    "torch.save, old": (lambda: saved(False), "a pickle"),
    "TorchScript": (lambda: zipped("m/data.pkl", "m/code/m.py", "m/constants.pkl"), "TorchScript"),
    "a zip": (lambda: zipped("readme"), "a zip archive"),
    "a tar": (tarred, "a tar archive"),
    "HDF5": (hdf5, "an HDF5 file"),
    "npy": (lambda: numpy_saved(False), "a NumPy .npy file"),
    "npz": (lambda: numpy_saved(True), "a NumPy .npz archive"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(50), "a gzip file"),
    "GGUF": (lambda: b"GGUF" + bytes(50), "a GGUF file"),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_unsafe_files_are_refused_by_content_whatever_their_name(what: str, tmp_path: Path) -> None:
    make, named = UNSAFE[what]
    path = tmp_path / "model.safetensors"
    path.write_bytes(make())
    with pytest.raises(UnsafeFile, match=named) as caught:
        load_initial(path)
    assert caught.value.path == str(path)
    assert not Trap.sprung


def test_a_real_torchscript_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.warns():  # torch says that scripting is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(UnsafeFile, match="TorchScript"):
        load_initial(path)


def test_refusing_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(saved(True))
    (tmp_path / "b.pkl").write_bytes(pickled(4))
    (tmp_path / "c.safetensors").write_bytes(safetensors.torch.save({"x": torch.ones(2)}))
    code = """
        import os, sys
        from covey.algorithms.errors import UnsafeFile
        from covey.algorithms.tensors import load_initial
        before = set(sys.modules)
        for name in ("a.pt", "b.pkl"):
            try:
                load_initial(name)
            except UnsafeFile:
                pass
            else:
                sys.exit(name)
        load_initial("c.safetensors").write(os.open("out", os.O_WRONLY | os.O_CREAT))
        sys.exit(repr(set(sys.modules) - before) if set(sys.modules) - before else 0)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def cut_short(path: Path) -> None:
    path.write_bytes(safetensors.torch.save({"x": torch.ones(2)})[:-1])


def text(path: Path) -> None:
    path.write_text("hello world, this is text")


NO_MODEL: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (Path.touch, BadSetting, "empty"),
    (Path.absolute, BadSetting, "no such file"),
    (Path.mkdir, BadSetting, "no such file"),
    (text, BadHeader, "model"),
    (cut_short, BadHeader, "tensors end"),
]


@pytest.mark.parametrize(("make", "error", "message"), NO_MODEL)
def test_a_file_that_is_no_model_is_named(
    make: Callable[[Path], object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    make(path)
    with pytest.raises(error, match=message):
        load_initial(path)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (3, BadSetting),
        ([np.ones(3)], BadSetting),
        (None, BadSetting),
        ({"a": "text"}, BadUpdate),
        ({"a": [[1], [1, 2]]}, BadUpdate),
        ({"a": [object()]}, BadUpdate),
        ({1: np.ones(2)}, BadUpdate),
        ({}, BadUpdate),
    ],
)
def test_what_is_no_model_is_refused(source: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        load_initial(source)
