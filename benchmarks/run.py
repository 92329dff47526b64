"""The harness: which benchmarks there are, and running them.

`python -m benchmarks [--only NAME ...] [--quick] [--output FOLDER]`. A whole run takes about ten
minutes and writes `RESULTS.md` and `RESULTS.json`; with `--only` or `--quick` nothing is written
unless a folder is named.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import results
from .results import Row

HERE = Path(__file__).parent

#: Name on the command line -> heading. Each module has `run(folder, quick) -> list[Row]`.
BENCHMARKS = {
    "startup": "Simulator by script: the whole command",
    "functions": "Simulator by function",
    "big": "Big model: 496 MiB, 2 clients x 2 rounds by script",
    "messages": "Mailbox against an asyncio.Queue actor",
    "codec": "Codec",
    "ingestion": "Updates into a buffer",
    "asynchronous": "Asynchronous training in virtual time",
    "accuracy": "Sites with different data (Dirichlet 0.1), the same budget",
    "slope": "Fifty rounds: resident memory",
    "simulation": "Virtual time",
    "wire": "Doors against bare TCP: 1 KB request and reply, plaintext",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks that are asked for, all by default."""
    options = _parse(arguments)
    facts, began = results.machine(), time.monotonic()
    tables: dict[str, list[Row]] = {}
    names = options.only or list(BENCHMARKS)
    # Run folders are written where the disk is: a tmpfs would count as memory.
    with tempfile.TemporaryDirectory(prefix="covey-bench-", dir=options.scratch) as scratch:
        for name in names:
            module = importlib.import_module(f".{name}", __package__)
            rows: list[Row] = module.run(Path(scratch), options.quick)
            tables[BENCHMARKS[name]] = rows
            results.show(BENCHMARKS[name], rows)
    facts["took"] = f"{(time.monotonic() - began) / 60:.1f} minutes"
    output = options.output
    if output is None and not (options.only or options.quick):
        output = HERE
    if output is not None:
        results.write(output, facts, tables)
        print(f"\nwritten to {output / 'RESULTS.md'}", file=sys.stderr)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help="some alone")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller sizes")
    parser.add_argument("--output", type=Path, help="folder for RESULTS.md and RESULTS.json")
    parser.add_argument("--scratch", type=Path, help="folder on disk for what runs write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
