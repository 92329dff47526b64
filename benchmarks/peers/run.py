"""The command line: `python -m benchmarks.peers [--only NAME ...] [--peers NAME ...]`.

A whole run takes about twenty minutes on two cores when the environments are there, and writes
`PEERS.md` and `PEERS.json`; with `--only`, `--peers` or `--repeats` nothing is written unless a
folder is named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import results

from . import accuracy, big, environments, page, systems, tasks, trivial
from .bounded import Bounds
from .environments import REQUIREMENTS, CannotInstall
from .page import Table
from .series import Series

HERE = Path(__file__).parent
#: Name on the command line -> what measures.
SECTIONS: Mapping[str, Callable[[Series, int | None], list[Table]]] = {
    "trivial": trivial.run,
    "big": big.run,
    "accuracy": accuracy.run,
    "tasks": tasks.run,
}
#: Twice what the slowest that ends by itself takes on a quiet machine.
_LIMIT_S = 150.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for, all by default; what is done is written after each section."""
    options = parse(arguments)
    pythons, missing = _prepare(options.peers or list(REQUIREMENTS))
    facts = _facts(pythons)
    began, tables = time.monotonic(), list[Table]()
    # On disk, as a tmpfs would count as memory; a short name, as Ray puts sockets there.
    with tempfile.TemporaryDirectory(prefix="peers-", dir=options.scratch) as scratch:
        series = Series(pythons, missing, Path(scratch), Bounds(options.limit))
        for name in options.only or SECTIONS:
            for table in SECTIONS[name](series, options.repeats):
                tables.append(table)
                page.show(table)
            facts["took"] = f"{(time.monotonic() - began) / 60:.1f} minutes"
            _write(options, facts, tables)


def _write(options: argparse.Namespace, facts: dict[str, str], tables: Sequence[Table]) -> None:
    output = options.output
    if output is None and not (options.only or options.peers or options.repeats):
        output = HERE.parent
    if output is not None:
        page.write(output, facts, tables)
        print(f"\nwritten to {output / 'PEERS.md'}", file=sys.stderr)


def _prepare(peers: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """The Python of each system, covey's first; and why others have none."""
    own, missing = systems.own_python(), dict[str, str]()
    pythons: dict[str, Path] = {}
    for name in (systems.SCRIPT, systems.FUNCTION, systems.BATCHED, systems.LOOP):
        pythons[name] = own
    for peer in peers:
        try:
            pythons[peer] = environments.prepare(peer)
        except CannotInstall as error:
            missing[peer] = f"cannot be installed: {error}"
            print(missing[peer], file=sys.stderr)
    if "flwr" in pythons:
        pythons[systems.WARM] = pythons["flwr"]
    return pythons, missing


def _facts(pythons: dict[str, Path]) -> dict[str, str]:
    facts = results.machine()
    facts["versions"] = environments.own_versions()
    for name, python in pythons.items():
        facts[name] = systems.WAYS[name]
        if name in REQUIREMENTS:
            facts[name] += f"; {environments.versions(name, python)}"
    facts["in all"] = "one torch thread wherever there is training; memory is a sum of PSS"
    return facts


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME", help="some tables")
    parser.add_argument("--peers", type=_peers, metavar="NAME,...", help="some peers")
    parser.add_argument("--repeats", type=int, help="runs of each command, at most")
    parser.add_argument("--limit", type=float, default=_LIMIT_S, help="seconds that a run may take")
    parser.add_argument("--output", type=Path, help="folder for PEERS.md and PEERS.json")
    parser.add_argument("--scratch", type=Path, help="folder on disk for what runs write")
    return parser.parse_args(arguments)


def _peers(text: str) -> list[str]:
    """Names of peers, with commas between them."""
    names = text.split(",")
    unknown = [name for name in names if name not in REQUIREMENTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no peer is called {', '.join(unknown)}")
    return names
