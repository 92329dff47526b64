"""Whole commands against the import floor: simulated scripts, `covey run`, NumPy alone, help.

The floor is what no simulator can go below that trains with torch in processes of its own:
`python -c 'import torch'` for the command and `python -c 'import torch, torch._dynamo'` for the
clients' template. It is timed in the same run, taking turns with the commands.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .commands import Timings, take_turns
from .memory import peak_memory
from .results import Row, mebibytes, ratio, seconds

JOBS = Path(__file__).parent / "jobs"
#: The `covey` command, of this Python, wherever its scripts folder is.
COVEY = (sys.executable, "-P", "-c", "from covey.cli.main import main; main()")

FLOOR = {
    "import torch": (sys.executable, "-c", "import torch"),
    "import torch._dynamo": (sys.executable, "-c", "import torch, torch._dynamo"),
}
_TORCH = str(JOBS / "torch" / "job.py")
_RUNS = {
    f"{clients} clients, {way}": command
    for clients in (2, 8, 32)
    for way, command in {
        "python job.py": (sys.executable, _TORCH, str(clients)),
        "covey run": (*COVEY, "run", _TORCH, "--clients", str(clients)),
    }.items()
}
_SMALL = {
    "NumPy only": (sys.executable, str(JOBS / "arrays" / "job.py")),
    "covey --help": (*COVEY, "--help"),
}
#: Rounds of the run that tells a later round's time: enough for a median.
_ROUNDS = 21


def run(folder: Path, quick: bool) -> list[Row]:
    """Time every command in alternation, then each one's memory, then later rounds."""
    repeats = 1 if quick else 3
    timings = take_turns({**FLOOR, **_RUNS, **_SMALL}, repeats, folder)
    floor_s = sum(timings[name].wall_s for name in FLOOR)
    floor_cpu_s = sum(timings[name].cpu_s for name in FLOOR)
    rows = [_floor(timings, floor_s, floor_cpu_s)]
    rows += [_command(name, timings[name], floor_s, floor_cpu_s) for name in _RUNS]
    rows += [_command(name, timings[name], None, None) for name in _SMALL]
    rows += [_memory(clients, folder) for clients in (2, 8, 32)]
    rows += [_later_rounds(clients, folder) for clients in (2, 8, 32)]
    return rows


def _floor(timings: Mapping[str, Timings], wall_s: float, cpu_s: float) -> Row:
    parts = " + ".join(f"{timings[name].wall_s:.2f}" for name in FLOOR)
    return Row("import floor", seconds(wall_s), f"{parts} s; CPU {cpu_s:.2f} s", value=wall_s)


def _command(name: str, timings: Timings, floor_s: float | None, floor_cpu_s: float | None) -> Row:
    note = f"CPU {timings.cpu_s:.2f} s"
    if floor_s is not None and floor_cpu_s is not None:
        note = f"{ratio(timings.wall_s, floor_s)} the floor; CPU {timings.cpu_s:.2f} s"
        note += f", {ratio(timings.cpu_s, floor_cpu_s)}"
    all_s = [round(run.wall_s, 3) for run in timings.runs]
    data = {"runs_s": all_s, "cpu_s": timings.cpu_s, "floor_s": floor_s}
    limit = {
        "2 clients, python job.py": "<= 1.1 x floor",
        "2 clients, covey run": "<= 0.8 x floor",
        "32 clients, python job.py": "<= 1.4 x floor",
        "NumPy only": "<= 1.5 s",
        "covey --help": "< 0.5 s",
    }.get(name, "")
    what = f"{name} (3 rounds)" if "client" in name else name
    return Row(what, seconds(timings.wall_s), note, limit, value=timings.wall_s, data=data)


def _memory(clients: int, folder: Path) -> Row:
    # Three rounds are over before a look at all processes is: more rounds, so that all are seen.
    command = (sys.executable, _TORCH, str(clients), str(_ROUNDS))
    peaks = peak_memory(command, folder / f"memory-{clients}")
    total = peaks.total
    note = f"PSS {mebibytes(total.pss)}, unmapped {mebibytes(total.unmapped)}; "
    note += f"{mebibytes(total.files)} of it pages of files; {peaks.processes} processes"
    limit = "<= 1.0 GB" if clients == 32 else ""
    return Row(
        f"{clients} clients, peak memory", mebibytes(total.total), note, limit, value=total.total
    )


def _later_rounds(clients: int, folder: Path) -> Row:
    workspace = folder / f"rounds-{clients}"
    command = (sys.executable, _TORCH, str(clients), str(_ROUNDS))
    take_turns({"rounds": command}, 1, workspace)
    times = sorted(row["seconds"] for row in _global_rows(workspace) if row["round"] > 0)
    limit = {2: "<= 10 ms", 32: "<= 120 ms"}.get(clients, "")
    median = statistics.median(times)
    note = f"{1000 * times[0]:.0f} to {1000 * times[-1]:.0f} ms in {len(times)} rounds"
    return Row(f"{clients} clients, a later round", f"{1000 * median:.0f} ms", note, limit, median)


def _global_rows(workspace: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in workspace.glob("**/metrics.jsonl"):
        lines = map(json.loads, path.read_text().splitlines())
        rows += [line for line in lines if line["site"] == "global" and line["task"] == "train"]
    return rows
