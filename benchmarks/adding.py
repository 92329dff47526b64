"""One process of the ingestion benchmark: adds updates, makes steps, and prints what it took.

`python -m benchmarks.adding WAY MEBIBYTES TURNS` with WAY "torch", "numpy" or "memory". torch is
given one thread; without it the process has none.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covey.algorithms import (
    SGD,
    Adam,
    Addend,
    Buffer,
    FedBuff,
    LinearAggregation,
    Sums,
    apply,
    new_state,
)
from covey.algorithms.tensors import DTYPES, Layout, ParamsType

_DIFF = ParamsType.DIFF
_KIB = 1024
_TOGETHER = 4
_STEPS: Mapping[str, LinearAggregation] = {
    "SGD": FedBuff(optimizer=SGD(0.7)),
    "SGD with momentum": FedBuff(optimizer=SGD(0.7, momentum=0.9)),
    "Adam": FedBuff(optimizer=Adam()),
}


def adding(mebibytes: int, turns: int) -> dict[str, Any]:
    """Bytes per second, and times the speed of memcpy, of each way to take an update in."""
    layout = layout_of("F32", mebibytes)
    update, warm = blob_of(layout), bytearray(layout.size)
    buffer = Buffer(layout)
    contenders: dict[str, Callable[[], object]] = {
        "add, bound unknown": lambda: buffer.add(update, 0.7, _DIFF),
        "add": lambda: buffer.add(update, 0.7, _DIFF, bound=1.0),
        "add of weight 1": lambda: buffer.add(update, 1.0, _DIFF, bound=1.0),
        "check": lambda: buffer.check(update, 0.7, _DIFF),
    }
    found = beside(lambda: copy(warm, update), contenders, layout.data_size, turns)
    return found | together(layout, buffer, turns)


def together(layout: Layout, buffer: Buffer, turns: int) -> dict[str, Any]:
    """The same of updates that have come meanwhile, and are added in one go; memcpy of as many."""
    updates = [blob_of(layout) for _ in range(_TOGETHER)]
    addends = [Addend(update, 0.7) for update in updates]
    warm = [bytearray(layout.size) for _ in updates]

    def copy_all() -> None:
        for to, update in zip(warm, updates, strict=True):
            copy(to, update)

    contenders = {f"add, {_TOGETHER} waiting": lambda: buffer.add_all(addends)}
    return beside(copy_all, contenders, _TOGETHER * layout.data_size, turns)


def adding_short(mebibytes: int, turns: int) -> dict[str, Any]:
    """The same of 16-bit floats."""
    layout = layout_of("BF16", mebibytes)
    update, warm = blob_of(layout), bytearray(layout.size)
    buffer = Buffer(layout)
    contenders = {"add bfloat16": lambda: buffer.add(update, 0.7, _DIFF)}
    return beside(lambda: copy(warm, update), contenders, layout.data_size, turns)


def stepping(mebibytes: int, turns: int) -> dict[str, Any]:
    """The same of steps."""
    layout = layout_of("F32", mebibytes)
    update, warm = blob_of(layout), bytearray(layout.size)
    buffer = Buffer(layout)
    buffer.add(update, 0.7, _DIFF)
    sums = buffer.swap()
    contenders = {name: step_of(rule, update, sums) for name, rule in _STEPS.items()}
    return beside(lambda: copy(warm, update), contenders, layout.data_size, turns)


def step_of(rule: LinearAggregation, old: bytearray, sums: Sums) -> Callable[[], object]:
    """A step of a rule, over and over."""
    state = new_state(sums.layout, rule)
    return lambda: apply(old, sums.layout, sums, rule, lambda data: None, state=state)


def memory(mebibytes: int) -> dict[str, Any]:
    """Bytes by which a buffer grows the process, while it steps and is added to."""
    layout = layout_of("F32", mebibytes)
    update = blob_of(layout)
    before = peak()
    buffer = Buffer(layout)
    buffer.add(update, 0.7, _DIFF)
    sums = buffer.swap()
    buffer.add(update, 0.7, _DIFF)
    apply(update, layout, sums, FedBuff(), lambda data: None)
    buffer.give_back(sums)
    return {"grown": peak() - before, "update": layout.size}


def beside(
    base: Callable[[], object],
    contenders: Mapping[str, Callable[[], object]],
    size: int,
    turns: int,
) -> dict[str, Any]:
    """Each contender and the base in turn; medians of speeds and of ratios within a turn."""
    found: dict[str, Any] = {}
    for name, call in contenders.items():
        call()
        speeds, ratios, base_speeds = list[float](), list[float](), list[float]()
        for _ in range(turns):
            reference, took = seconds(base), seconds(call)
            speeds.append(size / took)
            base_speeds.append(size / reference)
            ratios.append(reference / took)
        found[name] = {
            "speed": statistics.median(speeds),
            "memcpy": statistics.median(base_speeds),
            "ratio": statistics.median(ratios),
        }
    return found


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def copy(to: bytearray, source: bytearray) -> None:
    """What the C library's memcpy does."""
    memoryview(to)[:] = source


def layout_of(dtype: str, mebibytes: int) -> Layout:
    """A model of so many bytes: one large tensor and a small one."""
    count = (mebibytes << 20) // DTYPES[dtype].itemsize - 1024
    return Layout.canonical(
        [("weight", DTYPES[dtype], (count,)), ("bias", DTYPES[dtype], (1024,))], "torch"
    )


def blob_of(layout: Layout) -> bytearray:
    """An update of small numbers: bytes that are finite as any float."""
    blob = bytearray(layout.size)
    blob[: layout.data_start] = layout.header
    np.frombuffer(blob, np.uint16, offset=layout.data_start)[:] = 0x3C23  # 0.01 as a bfloat16
    return blob


def peak() -> int:
    """The process' largest size so far, in bytes; `ru_maxrss` would begin with its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _KIB
    return 0


def main(way: str, mebibytes: str, turns: str) -> None:
    """Print the measurements as JSON."""
    if way == "torch":
        import torch

        torch.set_num_threads(1)
    if way == "memory":
        print(json.dumps(memory(int(mebibytes))))
        return
    size, often = int(mebibytes), int(turns)
    found = adding(size, often) | adding_short(size, often)
    steps = stepping(size, min(often, 5)) if way == "numpy" else {}
    print(json.dumps({"adding": found, "stepping": steps}))


if __name__ == "__main__":
    main(*sys.argv[1:])
