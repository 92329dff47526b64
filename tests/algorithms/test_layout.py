"""Layouts: canonical order, what safetensors reads and writes, and hostile headers."""

# The stubs of torch and safetensors are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.algorithms.errors import BadHeader, BadUpdate, ManifestMismatch
from covey.algorithms.tensors import DTYPES, Layout, Packer, header_size

MODEL = {
    "half": torch.ones(3, dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "weight": torch.arange(6.0).reshape(2, 3),
    "flag": torch.tensor([True, False]),
    "empty": torch.empty(0, 4),
}


def blob(entries: object, size: int = 0, pad: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    text += pad
    return len(text).to_bytes(8, "little") + text + bytes(size)


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_widest_elements_come_first_then_the_given_order() -> None:
    layout = Layout.of(MODEL)
    assert [spec.name for spec in layout.specs] == ["steps", "weight", "empty", "half", "flag"]
    assert layout.kind == "torch"
    assert layout.data_start % 64 == 0
    assert all(spec.start % spec.type.itemsize == 0 for spec in layout.specs)
    assert layout.specs[-1].end == layout.size


def test_a_layout_reads_back_equal() -> None:
    layout = Layout.of(MODEL)
    again = Layout.parse(layout.header, size=layout.size)
    assert again == layout
    assert again.specs == layout.specs
    assert again.digest == layout.digest
    assert hash(again) == hash(layout)
    assert Layout.of({"a": np.ones(2)}) != layout


def test_the_kind_is_in_the_header() -> None:
    arrays = Layout.of({"a": np.ones(3, np.float32)})
    assert Layout.parse(arrays.header, size=arrays.size).kind == "numpy"
    assert Layout.parse(blob({"a": entry()}, 8)).kind == "torch"
    short = blob({"__metadata__": {"format": "np"}, "a": entry("BF16", (4,))}, 8)
    assert Layout.parse(short).kind == "torch"  # NumPy could not hold it


def test_safetensors_reads_what_we_write(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(Packer(Layout.of(MODEL)).pack(MODEL))
    loaded = safetensors.torch.load_file(file)
    assert loaded.keys() == MODEL.keys()
    assert all(torch.equal(loaded[name], MODEL[name]) for name in MODEL)
    with safetensors.safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


@pytest.mark.parametrize("name", DTYPES)
def test_safetensors_reads_every_type(name: str, tmp_path: Path) -> None:
    dtype = getattr(torch, DTYPES[name].torch)
    state = {"x": torch.arange(5).to(dtype), "scalar": torch.tensor(1).to(dtype)}
    file = tmp_path / "model.safetensors"
    file.write_bytes(Packer(Layout.of(state)).pack(state))
    loaded = safetensors.torch.load_file(file)
    for key, value in state.items():
        assert loaded[key].dtype == dtype
        assert torch.equal(loaded[key].to(torch.complex64), value.to(torch.complex64))


def test_what_safetensors_writes_is_read_and_compared_by_name() -> None:
    written = safetensors.torch.save(MODEL, {"format": "pt"})
    foreign = Layout.parse(written)
    ours = Layout.of(MODEL)
    assert foreign != ours
    foreign.check(ours)
    ours.check(foreign)
    loaded = Packer(foreign).unpack(bytearray(written))
    assert all(torch.equal(loaded[name], MODEL[name]) for name in MODEL)


def test_numpy_files_of_safetensors_are_read() -> None:
    arrays = {"b": np.arange(4.0), "a": np.arange(3, dtype=np.int16)}
    written = safetensors.numpy.save(arrays, {"format": "np"})
    loaded = Packer(Layout.parse(written)).unpack(bytearray(written))
    assert all(np.array_equal(loaded[name], arrays[name]) for name in arrays)


def test_a_mismatch_names_tensor_expected_and_got() -> None:
    model = Layout.of({"w": torch.ones(2, 3), "b": torch.ones(3)})
    for state, tensor, expected, got in [
        ({"w": torch.ones(2, 3)}, "b", "F32 [3]", "absent"),
        ({"w": torch.ones(3, 2), "b": torch.ones(3)}, "w", "F32 [2, 3]", "F32 [3, 2]"),
        ({"w": torch.ones(2, 3).half(), "b": torch.ones(3)}, "w", "F32 [2, 3]", "F16 [2, 3]"),
        ({"w": torch.ones(2, 3), "b": torch.ones(3), "c": torch.ones(1)}, "c", "absent", "F32 [1]"),
    ]:
        with pytest.raises(ManifestMismatch) as caught:
            Layout.of(state).check(model)
        assert (caught.value.tensor, caught.value.expected, caught.value.got) == (
            tensor,
            expected,
            got,
        )


def test_leaving_tensors_out_gives_a_canonical_layout() -> None:
    layout = Layout.of(MODEL).without({"steps", "empty"})
    assert [spec.name for spec in layout.specs] == ["weight", "half", "flag"]
    assert layout == Layout.of({name: MODEL[name] for name in ("half", "weight", "flag")})
    assert layout.without(()) is layout
    with pytest.raises(BadUpdate, match=r"'nothing'.*not a variable"):
        layout.without({"nothing"})
    with pytest.raises(BadUpdate, match="at least one"):
        layout.without({"weight", "half", "flag"})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "at least one tensor"),
        ({"a b": np.ones(1)}, "names are"),
        ({"../x": np.ones(1)}, "names are"),
        ({"": np.ones(1)}, "names are"),
        ({"a": np.ones((1,) * 9)}, "dimensions"),
        ({"a": np.array(["text"])}, "element type"),
        ({"a": np.ones(1, ">f4")}, "element type"),
        ({"a": "text"}, "str, which is not a tensor"),
        ({"a": torch.empty(1, dtype=torch.complex128)}, "element type"),
    ],
)
def test_what_cannot_be_stored_is_named(state: dict[str, Any], message: str) -> None:
    with pytest.raises(BadUpdate, match=message):
        Layout.of(state)


def test_a_model_of_very_many_tensors_needs_the_larger_limit() -> None:
    layout = Layout.of({f"layer.{i}": np.ones(1, np.float32) for i in range(20_000)})
    with pytest.raises(BadHeader, match="limit 1048576"):
        Layout.parse(layout.header, size=layout.size)
    assert Layout.parse(layout.header, size=layout.size, expected_tensors=20_000) == layout


HUGE = 2**63 - 1
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "only a length": (2).to_bytes(8, "little"),
    "length of everything": (2**64 - 1).to_bytes(8, "little") + b"{}",
    "a 33 MB header": blob({"a": entry()}, 8, pad=b" " * (33 << 20)),
    "cut off": blob({"a": entry()}, 8)[:20],
    "leading space": blob(b' {"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
    "no brace": blob(b"[1, 2]"),
    "not JSON": blob(b"{nonsense"),
    "bad UTF-8": blob(b'{"\xff\xfe": 1}'),
    "trailing text": blob(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} x', 8),
    "empty": blob({}),
    "only metadata": blob({"__metadata__": {"a": "b"}}),
    "deep": blob(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "many containers": blob(b'{"a":[' + b"{}," * 200_000 + b"{}]}"),
    "duplicate tensor": blob(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                             b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
    "duplicate field": blob(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
                            8),
    "overlap": blob({"a": entry(), "b": entry(offsets=(4, 12))}, 12),
    "the same bytes twice": blob({"a": entry(), "b": entry()}, 8),
    "hole": blob({"a": entry(), "b": entry(offsets=(12, 20))}, 20),
    "hole at the start": blob({"a": entry(offsets=(4, 12))}, 12),
    "trailing data": blob({"a": entry()}, 9),
    "short data": blob({"a": entry()}, 7),
    "reversed offsets": blob({"a": entry(offsets=(8, 0))}, 8),
    "negative offset": blob({"a": entry(offsets=(-8, 0))}),
    "size unlike shape": blob({"a": entry(shape=(3,))}, 8),
    "product overflows": blob({"a": entry(shape=(2**32, 2**32, 4), offsets=(0, 0))}),
    "product wraps to zero": blob({"a": entry("I8", (2**40, 2**40), (0, 0))}),
    "zero beside huge": blob({"a": entry(shape=(0, 2**50, 2**50), offsets=(0, 0))}),
    "huge dimension": blob({"a": entry(shape=(HUGE,), offsets=(0, HUGE))}),
    "huge number": blob(
        b'{"a":{"dtype":"F32","shape":[1' + b"0" * 5000 + b'],"data_offsets":[0,8]}}'),
    "negative dimensions": blob({"a": entry(shape=(-1, -2))}, 8),
    "nine dimensions": blob({"a": entry(shape=(1,) * 8 + (2,))}, 8),
    "fraction": blob({"a": entry(shape=(2.0,))}, 8),
    "true": blob({"a": entry(shape=(True, 2))}, 8),
    "NaN": blob({"a": entry(shape=(float("nan"),))}, 8),
    "shape is text": blob({"a": entry(shape="2")}, 8),
    "one offset": blob({"a": entry(offsets=(0,))}, 8),
    "three offsets": blob({"a": entry(offsets=(0, 4, 8))}, 8),
    "unknown type": blob({"a": entry("F31")}, 8),
    "sub-byte type": blob({"a": entry("F4", (16,))}, 8),
    "type is a list": blob({"a": entry(["F32"])}, 8),
    "entry is a list": blob({"a": [1]}, 8),
    "missing field": blob({"a": {"dtype": "F32", "shape": [2]}}, 8),
    "extra field": blob({"a": {**entry(), "x": 1}}, 8),
    "name with a space": blob({"a b": entry()}, 8),
    "name is a path": blob({"../a": entry()}, 8),
    "name with NUL": blob({"a\0": entry()}, 8),
    "name is empty": blob({"": entry()}, 8),
    "name is long": blob({"a" * 257: entry()}, 8),
    "name of a lone surrogate": blob(
        b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
    "name ends in a newline": blob({"a\n": entry()}, 8),
    "metadata is a list": blob({"__metadata__": [], "a": entry()}, 8),
    "metadata of numbers": blob({"__metadata__": {"a": 1}, "a": entry()}, 8),
    "metadata is large": blob({"__metadata__": {"a": "b" * 5000}, "a": entry()}, 8),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused(what: str) -> None:
    with pytest.raises(BadHeader):
        Layout.parse(HOSTILE[what])
    with pytest.raises(BadHeader):
        Layout.parse(HOSTILE[what], expected_tensors=10**9)


def test_too_many_tensors_are_refused() -> None:
    entries = ",".join(
        f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(65_537)
    )
    with pytest.raises(BadHeader, match="65536 tensors"):
        Layout.parse(blob(f"{{{entries}}}".encode()), expected_tensors=65_536)
    with pytest.raises(BadUpdate, match="65537 tensors"):
        Layout.of({str(i): np.empty(0) for i in range(65_537)})


def test_the_needed_bytes_are_told_by_the_first_nine() -> None:
    layout = Layout.of(MODEL)
    assert header_size(layout.header[:9]) == layout.data_start


@given(seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_a_damaged_header_is_refused_or_covers_its_blob(seed: int) -> None:
    draw = random.Random(seed)
    whole = bytearray(Packer(Layout.of(MODEL)).pack(MODEL))
    end = Layout.of(MODEL).data_start
    for _ in range(draw.randint(1, 4)):
        whole[draw.randrange(end)] = draw.choice([draw.randrange(256), *b'0123456789[]{},:" '])
    try:
        layout = Layout.parse(whole)
    except BadHeader:
        return
    position = layout.data_start
    for spec in layout.specs:
        assert spec.start == position
        assert spec.size == spec.elements * spec.type.itemsize
        position = spec.end
    assert position == len(whole)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)


@given(
    entries=st.dictionaries(
        st.text(alphabet="ab._/", max_size=4) | st.just("__metadata__"),
        JSON
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "U8", "BF16", "X"]) | JSON,
                "shape": st.lists(st.integers(-1, 2**70), max_size=10) | JSON,
                "data_offsets": st.lists(st.integers(-1, 2**70), max_size=3) | JSON,
            }
        ),
        max_size=4,
    ),
    size=st.integers(0, 64),
)
@settings(max_examples=300, deadline=None)
def test_any_json_is_refused_or_covers_its_blob(entries: dict[str, object], size: int) -> None:
    data = blob(json.dumps(entries).encode(errors="surrogatepass"), size)
    try:
        layout = Layout.parse(data)
    except BadHeader:
        return
    assert layout.size == len(data)


def test_the_repr_has_the_counts() -> None:
    assert repr(Layout.of({"a": np.ones(16)})) == "<Layout 1 tensors, 256 bytes, numpy>"
