"""`python -m tests.mutation [--survivors] [FILE...]`: change, test, tell.

With files, only theirs are made anew. With `--survivors`, only those that survived the last time
are tried again, of files that have not changed since.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from .mutants import Mutant, mutants_of
from .results import (
    FileResult,
    Survivor,
    commit_of,
    equivalents,
    load,
    save,
    sum_of,
)
from .scope import SCOPE, WANTED_PERCENT
from .workshop import Limits, Workshop

ROOT: Final = Path(__file__).resolve().parents[2]


def main() -> int:
    """Return 1 if too few were killed, or a listed equivalent is none."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--survivors", action="store_true", help="try only those again")
    parser.add_argument("file", nargs="*", help=f"of {', '.join(SCOPE)}")
    options = parser.parse_args()
    unknown = sorted(set(options.file) - set(SCOPE))
    if unknown:
        parser.error(f"not in scope: {', '.join(unknown)}")
    os.nice(10)
    results = load()
    with tempfile.TemporaryDirectory(prefix="covey-mutants-") as folder:
        workshop = Workshop(ROOT, Path(folder))
        for path in options.file or SCOPE:
            mutants = mutants_of((workshop.tree / path).read_bytes())
            if options.survivors:
                results[path] = examine_again(workshop, path, mutants, results[path])
            else:
                results[path] = examine(workshop, path, mutants)
            save(results)
    percent = sum_of(results).percent
    _say(f"{percent:.1f} % killed; {WANTED_PERCENT} % wanted")
    return 0 if percent >= WANTED_PERCENT else 1


def examine(workshop: Workshop, path: str, mutants: list[Mutant]) -> FileResult:
    """Try a file's mutants, one after the other."""
    began = time.monotonic()
    tests = SCOPE[path]
    source = (workshop.tree / path).read_bytes()
    baseline = workshop.test(path, source, tests, Limits())
    if baseline.verdict != "survived":
        log = workshop.log.read_text()[-2000:]
        raise SystemExit(f"{log}\n{path}: {baseline.by} fails without any change")
    limits = Limits.after(baseline)
    _say(f"{path}: {len(mutants)} mutants; {baseline.count} tests take {baseline.total_s:.1f} s")
    reasons = equivalents(path)
    stale = reasons.keys() - {mutant.key for mutant in mutants_of(source)}
    if stale:
        raise SystemExit(f"equivalents.toml lists mutants of {path} that there are not: {stale}")
    killed = timeout = 0
    survivors: list[Survivor] = []
    for mutant in mutants:
        outcome = workshop.test(path, mutant.source, tests, limits)
        killed += outcome.verdict == "killed"
        timeout += outcome.verdict == "timeout"
        why = reasons.get(mutant.key, "")
        if outcome.verdict == "survived":
            survivors.append(Survivor.of(mutant, why))
        if why and outcome.verdict != "survived":
            _say(f"  listed as equivalent, but {outcome.by} noticed:")
        if bool(why) == (outcome.verdict != "survived"):
            _say(f"  {mutant.line} {mutant.scope}\n    - {mutant.before}\n    + {mutant.after}")
    seconds = time.monotonic() - began
    _say(f"  {killed} killed, {timeout} by time, {len(survivors)} survived in {seconds:.0f} s")
    commit = commit_of(ROOT, path)
    return FileResult(killed, timeout, survivors, baseline.count, round(seconds), commit)


def examine_again(
    workshop: Workshop, path: str, mutants: list[Mutant], last: FileResult
) -> FileResult:
    """Try those again that survived the last time: tests only become more."""
    survived = {each.key for each in last.survivors}
    left = [mutant for mutant in mutants if mutant.key in survived]
    if len(mutants) != last.total or len(left) != len(survived):
        raise SystemExit(f"{path} has changed; leave --survivors out")
    now = examine(workshop, path, left)
    return replace(
        now,
        killed=last.killed + now.killed,
        timeout=last.timeout + now.timeout,
        seconds=last.seconds + now.seconds,
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


sys.exit(main())
