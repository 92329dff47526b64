"""What came of the mutants: kept as JSON for each file, shown as a page.

Here too: the list of mutants that nothing can notice, `equivalents.toml`, in which each has its
reason. Figures are given with and without them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from .mutants import Mutant
from .scope import SCOPE, WANTED_PERCENT

_FOLDER: Final = Path(__file__).parent
_PACKAGES: Final = ("pytest", "hypothesis", "numpy")
Key = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Survivor:
    """A mutant that no test noticed.

    Attributes:
        scope: Class and function.
        line: Where it begins.
        before: The lines as they are.
        after: What became of them.
        nth: Which of several such.
        why: Why nothing can notice; empty if something could.
    """

    scope: str
    line: int
    before: str
    after: str
    nth: int = 1
    why: str = ""

    @classmethod
    def of(cls, mutant: Mutant, why: str) -> Survivor:
        """Of a mutant."""
        return cls(mutant.scope, mutant.line, mutant.before, mutant.after, mutant.nth, why)

    @property
    def key(self) -> Key:
        """That of the mutant."""
        return self.scope, self.before, self.after, self.nth


@dataclass(frozen=True, slots=True)
class FileResult:
    """What came of one file's mutants.

    Attributes:
        killed: A test failed.
        timeout: A test hung.
        survivors: No test noticed.
        tests: How many tests looked.
        seconds: How long it took.
        commit: Of the tree that was tested.
    """

    killed: int
    timeout: int
    survivors: list[Survivor]
    tests: int
    seconds: float
    commit: str

    @property
    def equivalent(self) -> int:
        """Survivors that nothing can notice."""
        return sum(1 for survivor in self.survivors if survivor.why)

    @property
    def total(self) -> int:
        """All mutants."""
        return self.killed + self.timeout + len(self.survivors)

    @property
    def percent(self) -> float:
        """Killed of a hundred, the equivalent ones being survivors."""
        return 100 * (self.killed + self.timeout) / self.total

    @property
    def percent_of_others(self) -> float:
        """Killed of a hundred that are not equivalent."""
        return 100 * (self.killed + self.timeout) / (self.total - self.equivalent)


def equivalents(path: str) -> dict[Key, str]:
    """The mutants of a file that nothing can notice, and why."""
    listed = tomllib.loads((_FOLDER / "equivalents.toml").read_text()).get(path, [])
    return {
        (entry["scope"], entry["before"], entry["after"], entry.get("nth", 1)): entry["why"]
        for entry in listed
    }


def load() -> dict[str, FileResult]:
    """The results so far."""
    file = _FOLDER / "RESULTS.json"
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    results: dict[str, FileResult] = {}
    for path, values in content.items():
        reasons = equivalents(path)
        found = [Survivor(**survivor) for survivor in values.pop("survivors")]
        survivors = [replace(each, why=reasons.get(each.key, "")) for each in found]
        results[path] = FileResult(survivors=survivors, **values)
    return results


def save(results: Mapping[str, FileResult]) -> None:
    """Write `RESULTS.json` and `RESULTS.md`."""
    ordered = {path: results[path] for path in SCOPE if path in results}
    content = {path: asdict(result) for path, result in ordered.items()}
    (_FOLDER / "RESULTS.json").write_text(json.dumps(content, indent=1) + "\n")
    (_FOLDER / "RESULTS.md").write_text(page(ordered))


def sum_of(results: Mapping[str, FileResult]) -> FileResult:
    """All files' results as those of one."""
    every = results.values()
    return FileResult(
        sum(result.killed for result in every),
        sum(result.timeout for result in every),
        [survivor for result in every for survivor in result.survivors],
        sum(result.tests for result in every),
        sum(result.seconds for result in every),
        "",
    )


def page(results: Mapping[str, FileResult]) -> str:
    """The results as a page."""
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{package} {version(package)}" for package in _PACKAGES]
    lines = [
        "# Mutation testing",
        "",
        "Written by `make mutants`: each mutant is one small change to a file, and the tests that",
        "cover the file run against it until one fails. `mutants.py` says which changes there are,",
        "`scope.py` which tests look.",
        "",
        f"- versions: {', '.join(versions)}",
        f"- system: {platform.platform()}, {os.cpu_count()} CPUs, of which one is used",
        f"- wanted: {WANTED_PERCENT} % killed, equivalent mutants counted as survivors",
        "",
        "| file | mutants | killed | timeout | survived | equivalent | killed of all"
        " | killed of those not equivalent | tests | took | commit |",
        "| --- " * 11 + "|",
    ]
    lines += [_row(path, result) for path, result in results.items()]
    lines.append(_row("all", sum_of(results)))
    for title, wanted in (("Survived", False), ("Equivalent", True)):
        lines += ["", f"## {title}"]
        for path, result in results.items():
            found = [each for each in result.survivors if bool(each.why) == wanted]
            if found:
                lines += ["", f"### {path}", ""]
                lines += [line for survivor in found for line in _told(survivor)]
    return "\n".join(lines) + "\n"


def _row(path: str, result: FileResult) -> str:
    cells = [
        path,
        result.total,
        result.killed,
        result.timeout,
        len(result.survivors) - result.equivalent,
        result.equivalent,
        f"{result.percent:.1f} %",
        f"{result.percent_of_others:.1f} %",
        result.tests,
        f"{result.seconds / 60:.1f} min",
        result.commit,
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _told(survivor: Survivor) -> list[str]:
    """A survivor as an item of a list."""
    nth = f", number {survivor.nth}" if survivor.nth > 1 else ""
    lines = [
        f"- line {survivor.line}, `{survivor.scope}`{nth}:",
        f"  `{survivor.before}`",
        f"  becomes `{survivor.after}`",
    ]
    return [*lines, f"  — {survivor.why}"] if survivor.why else lines


def commit_of(root: Path, path: str) -> str:
    """The present commit, with a plus if the file or the tests differ from it."""
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--", path, "tests") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()
