"""A big model: 496 MiB in tensors of 16 MiB, 2 clients x 2 rounds by script, exactness checked."""

from __future__ import annotations

import sys
from pathlib import Path

from .commands import take_turns
from .memory import peak_memory
from .results import Row, mebibytes, seconds
from .startup import FLOOR

_JOB = str(Path(__file__).parent / "jobs" / "big" / "job.py")
_TENSORS = 31


def run(folder: Path, quick: bool) -> list[Row]:
    """Time beside the import floor, then peak memory."""
    command = (sys.executable, _JOB, str(_TENSORS))
    timings = take_turns({**FLOOR, "big": command}, 1 if quick else 3, folder / "big")
    floor_s = sum(timings[name].wall_s for name in FLOOR)
    wall_s, cpu_s = timings["big"].wall_s, timings["big"].cpu_s
    above_s = wall_s - floor_s
    peaks = peak_memory(command, folder / "big-memory")
    total = peaks.total
    parts = f"PSS {mebibytes(total.pss)}, unmapped {mebibytes(total.unmapped)}; "
    parts += f"{mebibytes(total.files)} of it pages of files; {peaks.looks} looks"
    without = mebibytes(peaks.without_files.without_files)
    return [
        Row(
            "whole command",
            seconds(wall_s),
            f"{above_s:.2f} s above the floor of {floor_s:.2f} s; CPU {cpu_s:.2f} s",
            "<= floor + 8 s",
            wall_s,
            {"runs_s": [run.wall_s for run in timings["big"].runs], "floor_s": floor_s},
        ),
        Row("peak memory", mebibytes(total.total), parts, "<= 2.8 GB", total.total),
        Row("peak without pages of files", without, "", "", peaks.without_files.without_files),
        Row("result", "exact", "every element, checked by the job", "exact"),
    ]
