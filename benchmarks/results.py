"""Results: rows of figures, as JSON and as a table in Markdown."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("covey", "torch", "numpy", "uvloop", "msgpack", "safetensors")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        name: What was measured.
        figure: The result as it is shown.
        note: What to know about it.
        limit: What it shall be, empty where nothing is promised.
        value: The result as a number in seconds, bytes or per second.
        data: Whatever else was measured, for the JSON.
    """

    name: str
    figure: str
    note: str = ""
    limit: str = ""
    value: float = 0.0
    data: dict[str, Any] = field(default_factory=dict[str, Any])


def seconds(value: float) -> str:
    """Seconds as shown."""
    return f"{value:.2f} s"


def mebibytes(value: float) -> str:
    """Bytes as shown: in units of 2**20."""
    return f"{value / _MIB:,.0f} MiB"


def ratio(value: float, base: float) -> str:
    """How many times the base."""
    return f"{value / base:.2f} x"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {_memory_gib():.0f} GiB",
        "system": platform.platform(),
        "load": f"{os.getloadavg()[0]:.2f} before the first benchmark",
        "commit": _commit(),
        "versions": ", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{package} {version(package)}" for package in _PACKAGES]
        ),
    }


def write(folder: Path, facts: Mapping[str, str], tables: Mapping[str, Sequence[Row]]) -> None:
    """Write `RESULTS.json` and `RESULTS.md`."""
    content = {
        "facts": dict(facts),
        "tables": {name: [asdict(row) for row in rows] for name, rows in tables.items()},
    }
    (folder / "RESULTS.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "RESULTS.md").write_text(markdown(facts, tables))


def markdown(facts: Mapping[str, str], tables: Mapping[str, Sequence[Row]]) -> str:
    """The results as a page."""
    lines = ["# Benchmark results", "", "Written by `python -m benchmarks`.", ""]
    lines += [f"- {name}: {fact}" for name, fact in facts.items()]
    for name, rows in tables.items():
        lines += [
            "",
            f"## {name}",
            "",
            "| what | figure | shall be | note |",
            "| --- | --- | --- | --- |",
        ]
        lines += [f"| {row.name} | {row.figure} | {row.limit} | {row.note} |" for row in rows]
    return "\n".join(lines) + "\n"


def show(name: str, rows: Sequence[Row]) -> None:
    """Print a table for a person."""
    print(f"\n{name}", file=sys.stderr)
    for row in rows:
        limit = f"[{row.limit}]" if row.limit else ""
        print(f"  {row.name:<48} {row.figure:>12}  {limit:<16} {row.note}", file=sys.stderr)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "no checkout"
