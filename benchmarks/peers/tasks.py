"""Many clients in one process: seconds per client task, by covey's function and by pfl."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any, Final

from benchmarks.results import mebibytes, ratio

from .bounded import Outcome
from .page import Table
from .series import Series, Trial, Trials, ratio_of_pairs
from .systems import BATCHED, FUNCTION, LOOP
from .whole import note, told
from .work.settings import Work

CLIENTS: Final = 1000
ROUNDS: Final = 5
COLUMNS = (
    "system", "per client task", "peak memory", "/ function", "/ batched", "shall be", "note",
)  # fmt: skip
_NOTE: Final = (
    "1,000 clients, 5 rounds; the median round after the first, over its clients. {training}. "
    "Memory is the whole process."
)
_TRAINING: Final = {
    False: "Clients send back what they got: the system alone",
    True: "Clients train the network of the trivial rounds, which takes most of the time",
}


def run(series: Series, repeats: int | None) -> list[Table]:
    """Without and with training."""
    return [_table(series, training, repeats or 3) for training in (False, True)]


def _table(series: Series, training: bool, repeats: int) -> Table:
    work = Work("tasks", CLIENTS, ROUNDS, "", training=training)
    trials = series.take_turns(work, repeats, read, (FUNCTION, BATCHED, "pfl", LOOP))
    name = f"A client task among 1,000, {'with' if training else 'without'} training"
    rows = [row(system, trials) for system in trials]
    about = _NOTE.format(training=_TRAINING[training])
    return Table(name, about, COLUMNS, rows, {system: told(trials[system]) for system in trials})


def read(work: Work, outcome: Outcome) -> dict[str, Any]:
    """Seconds of a client task in a later round."""
    later: list[float] = json.loads(work.times.read_text())[1:]
    return {"task_s": statistics.median(later) / work.clients}


def row(system: str, trials: Mapping[str, Trials]) -> list[str]:
    """A system's row."""
    mine = trials[system]
    limit = ">= 2 x" if system == "pfl" else ""
    if not mine.runs or mine.fault:
        return [system, *["-"] * (len(COLUMNS) - 3), limit, note(mine)]
    all_s = [task_s(trial) for trial in mine.counted.values()]
    times = [_times(mine, trials.get(base)) for base in (FUNCTION, BATCHED)]
    runs = ", ".join(f"{1000 * one:.3f}" for one in all_s) + " ms"
    shown = f"{1000 * statistics.median(all_s):.3f} ms"
    return [system, shown, mebibytes(mine.memory), *times, limit, runs]


def _times(mine: Trials, base: Trials | None) -> str:
    if base is None or base.fault:
        return "-"
    found = ratio_of_pairs(mine, base, task_s)
    return "-" if found is None else ratio(found, 1)


def task_s(trial: Trial) -> float:
    """Seconds of a client task."""
    return float(trial.found["task_s"])
