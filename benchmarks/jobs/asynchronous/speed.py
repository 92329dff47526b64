"""Updates a second of FedBuff in virtual time, one JSON object out.

`python speed.py SITES CONCURRENCY BUFFER VERSIONS [batched]`: trivial training by function of a
model of 3,000 parameters in 6 NumPy arrays.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

_KIB = 1024


def memory(field: str) -> int:
    """A size from the kernel's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * _KIB
    return 0


# What comes after the import of torch is ours; the high-water mark begins here.
torch.set_num_threads(1)
BASE_BYTES = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")

from covey.recipes import FedBuffRecipe, LogNormal, SimEnv, TrainContext, batched  # noqa: E402


def add(params: dict[str, Any], ctx: TrainContext | list[TrainContext]) -> dict[str, Any]:
    """Add a constant, to one site's parameters or to those of many."""
    del ctx
    return {name: value + 1.0 for name, value in params.items()}


def main() -> None:
    """Run once, as the arguments say."""
    sites, concurrency, size, versions = map(int, sys.argv[1:5])
    train = batched(add) if sys.argv[5:] == ["batched"] else add
    recipe = FedBuffRecipe(
        initial_model={f"layer{i}": np.zeros(500, np.float32) for i in range(6)},
        train=train,
        num_rounds=versions,
        buffer_size=size,
        concurrency=concurrency,
    )
    env = SimEnv(sites, seed=1, progress=False, durations=LogNormal(0.0, 0.5))
    began, cpu_began = time.perf_counter(), time.process_time()
    recipe.execute(env)
    outcome = {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu_began,
        "updates": size * versions,
        "peak_bytes": memory("VmHWM") - BASE_BYTES,
    }
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
