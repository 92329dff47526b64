"""Running tests against a changed source, in a copy of the tree and a fork of a warm process.

The copy is what makes it safe: nobody's files change. The fork is what makes it quick: Python,
pytest and NumPy are imported once, covey and the tests anew for every mutant.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings

Verdict = Literal["killed", "timeout", "survived"]

_WARM: Final = ("numpy", "hypothesis.stateful", "structlog", "cryptography.x509", "msgpack")
#: What tests need of the tree.
COPIED: Final = ("actors", "algorithms", "cli", "client", "recipes", "transport", "tests", ".links")
_LEFT_OUT: Final = shutil.ignore_patterns(".*_cache", "__pycache__")
#: The tests are quick: what takes ten times as long has hung. That is seconds of CPU for what goes
#: round in circles, and more of real time for what waits, on a machine that others use.
_PATIENCE: Final = 10.0
_SPARE_CPU_S: Final = 2.0
_SPARE_S: Final = 30.0
#: A mutant that loops and collects is stopped by this and not by the machine's end.
_LARGEST_DATA_BYTES: Final = 4 << 30


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tests said.

    Attributes:
        verdict: Whether one failed, never ended, or none noticed.
        by: The test that noticed.
        count: Tests that ran.
        cpu_s: Seconds of CPU that the slowest of them took.
        total_s: Seconds that all took.
    """

    verdict: Verdict
    by: str
    count: int = 0
    cpu_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds of CPU that one test may take, and seconds that all of them may."""

    cpu_s: float = 120.0
    total_s: float = 900.0

    @classmethod
    def after(cls, baseline: Outcome) -> Limits:
        """Of mutants, given how long it takes without a change."""
        return cls(
            _SPARE_CPU_S + _PATIENCE * baseline.cpu_s, _SPARE_S + _PATIENCE * baseline.total_s
        )


class Workshop:
    """A copy of the tree, in which one file at a time is changed and tested."""

    def __init__(self, root: Path, folder: Path) -> None:
        """Copy what tests need of the tree at `root` into `folder`, an empty one."""
        self.tree = folder / "tree"
        self.log = folder / "log"
        self._root = root
        for name in COPIED:
            shutil.copytree(root / name, self.tree / name, symlinks=True, ignore=_LEFT_OUT)
        shutil.copy(root / "pyproject.toml", self.tree)
        settings.register_profile(
            "mutants",
            derandomize=True,  # the verdict is the same each time
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],  # to fail is enough
            suppress_health_check=list(HealthCheck),
        )
        for name in _WARM:
            importlib.import_module(name)
        gc.freeze()

    def test(self, path: str, source: bytes, tests: Sequence[str], limits: Limits) -> Outcome:
        """Run tests with `source` in place of the file at `path`, which is put back then."""
        file = self.tree / path
        original = file.read_bytes()
        file.write_bytes(source)
        try:
            # Python tells changed sources by size and second: too coarse for mutants.
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
            return self._fork(path, tests, limits)
        finally:
            file.write_bytes(original)

    def _fork(self, path: str, tests: Sequence[str], limits: Limits) -> Outcome:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=self._child, args=(path, tests, limits, theirs))
        child.start()
        theirs.close()
        group = child.pid
        assert group is not None
        try:
            return self._verdict(ours, limits.total_s)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)  # with what the tests have started
            child.kill()
            child.join()
            ours.close()

    def _verdict(self, ours: Connection, seconds: float) -> Outcome:
        if not ours.poll(seconds):
            return Outcome("timeout", "all of them")
        try:
            return Outcome(*ours.recv())
        except EOFError:
            return Outcome("killed", "the process died")

    def _child(self, path: str, tests: Sequence[str], limits: Limits, theirs: Connection) -> None:
        """Run the tests and tell what they said; never returns."""
        os.setsid()
        self._settle_in()

        def tell(outcome: Outcome) -> None:
            theirs.send(astuple(outcome))  # the class has been unloaded here

        witness = Witness(limits.cpu_s, tell)
        began = time.monotonic()
        code = pytest.main(
            ["-x", "-q", "--assert", "plain", "-p", "no:randomly", "-p", "no:cacheprovider",
             "-m", "not soak", "--timeout", "0", "--hypothesis-profile", "mutants", *tests],
            plugins=[witness],
        )  # fmt: skip
        signal.setitimer(signal.ITIMER_PROF, 0)
        verdict: Verdict = "survived" if code == pytest.ExitCode.OK else "killed"
        module = sys.modules.get("covey." + path.removesuffix(".py").replace("/", "."))
        where = Path(str(module.__file__)).resolve() if module is not None else None
        if verdict == "survived" and where != (self.tree / path).resolve():
            raise SystemExit(f"{path} is not what was tested, but {where}")
        seconds = time.monotonic() - began
        tell(Outcome(verdict, witness.failed, witness.count, witness.cpu_s, seconds))
        os._exit(0)

    def _settle_in(self) -> None:
        """Make the copy the tree that Python knows."""
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(self.tree)
        links = str(self.tree / ".links")
        here = [entry for entry in sys.path if entry and Path(entry).resolve() != self._root]
        sys.path[:] = [links, str(self.tree), *here]
        os.environ["PYTHONPATH"] = links
        for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "covey")]:
            del sys.modules[name]
        _limit_memory()


class Witness:
    """A plugin of pytest: times each test, ends one that hangs, keeps which one failed."""

    def __init__(self, limit_s: float, tell: Callable[[Outcome], None]) -> None:
        self.failed = ""
        self.count = 0
        self.cpu_s = 0.0
        self._limit_s = limit_s
        self._tell = tell
        self._test = "the import"
        self._began = time.process_time()
        signal.signal(signal.SIGPROF, self._hung)
        signal.setitimer(signal.ITIMER_PROF, limit_s)

    def _hung(self, *_: object) -> None:
        self._tell(Outcome("timeout", self._test))
        os._exit(1)  # no handler of the runtime gets to see it

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test = nodeid
        self._began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, self._limit_s)

    def pytest_runtest_logfinish(self) -> None:
        self.count += 1
        self.cpu_s = max(self.cpu_s, time.process_time() - self._began)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or f"import by {report.nodeid}"


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):
        resource = importlib.import_module("resource")
        resource.setrlimit(resource.RLIMIT_DATA, (_LARGEST_DATA_BYTES, _LARGEST_DATA_BYTES))
