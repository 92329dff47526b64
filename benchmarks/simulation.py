"""Virtual time: a thousand actors that crash, twenty rounds of up to ninety seconds each."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from covey.actors.runtime.testing import simulate

from .results import Row, seconds

#: The simulation that the suite holds to its outcome.
_SOURCE = Path(__file__).parent.parent / "tests" / "simulation" / "test_actors.py"
_ACTORS, _ROUNDS = 1000, 20


def run(folder: Path, quick: bool) -> list[Row]:
    """Time some runs of one seed, each with its hash of all events, which must be one."""
    del folder
    module = _load()
    logging.getLogger("covey").setLevel(logging.CRITICAL)  # a thousand crashes, a line each
    times: list[float] = []
    accounts: list[Any] = []
    for _ in range(2 if quick else 5):
        began = time.perf_counter()
        accounts.append(simulate(partial(module.federation, _ACTORS, _ROUNDS, True), seed=1))
        times.append(time.perf_counter() - began)
    hashes = {account.events for account in accounts}
    virtual_s, wall_s = accounts[0].seconds, statistics.median(times)
    note = f"{virtual_s:,.0f} s of virtual time, {len(hashes)} event hash in {len(times)} runs"
    return [Row("1,000 actors, 20 rounds, 5 % crashes", seconds(wall_s), note, "< 2 s", wall_s)]


def _load() -> Any:  # Any: a module that is no part of a package
    spec = importlib.util.spec_from_file_location("simulated_federation", _SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
