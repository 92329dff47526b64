"""Runs of several systems in alternation, and what is told of them: medians and ratios of pairs."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from .bounded import OFTEN, Bounds, Outcome, Peaks, run
from .systems import ALL, OWN, WARM, call
from .work.settings import Work

#: A run that took longer is not repeated.
ONCE_S: Final = 60.0
#: A run that took less is done once more to look at its memory closely, at the cost of its time;
#: one of covey's always, as too few looks would flatter it.
_CLOSE_LOOK_S: Final = 20.0

#: What a table reads from a run's folder before that is deleted.
Reader = Callable[[Work, Outcome], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run, and what was read from its folder."""

    outcome: Outcome
    found: dict[str, Any]


@dataclass(slots=True)
class Trials:
    """The runs of one system.

    Attributes:
        runs: Those that were done, by turn.
        close: Peaks of a run in which memory was looked at closely, if there was one.
        missing: Why there are no runs at all; empty if there are.
    """

    runs: dict[int, Trial] = field(default_factory=dict[int, Trial])
    close: Peaks | None = None
    missing: str = ""

    @property
    def counted(self) -> dict[int, Trial]:
        """The runs that ended well, if any did; else those that did not."""
        well = {turn: trial for turn, trial in self.runs.items() if not trial.outcome.fault}
        return well or self.runs

    @property
    def faults(self) -> list[Outcome]:
        """The runs that did not end well."""
        return [trial.outcome for trial in self.runs.values() if trial.outcome.fault]

    @property
    def fault(self) -> str:
        """Why there is no run that ended well; empty if there is one."""
        if self.missing or not self.runs:
            return self.missing
        return next(iter(self.counted.values())).outcome.fault

    @property
    def wall_s(self) -> float:
        """The median."""
        return statistics.median(trial.outcome.wall_s for trial in self.counted.values())

    @property
    def cpu_s(self) -> float:
        """The median."""
        return statistics.median(trial.outcome.cpu_s for trial in self.counted.values())

    @property
    def memory(self) -> int:
        """The largest peak of all runs, in bytes."""
        return max(peaks.pss for peaks in self._peaks())

    @property
    def processes(self) -> int:
        """Most processes at once."""
        return max(peaks.processes for peaks in self._peaks())

    def _peaks(self) -> list[Peaks]:
        close = [self.close] if self.close is not None else []
        return close + [trial.outcome.peaks for trial in self.runs.values()]

    def due(self) -> bool:
        """Whether to run it once more: not after a fault or a long run."""
        slow = any(trial.outcome.wall_s > ONCE_S for trial in self.runs.values())
        return not (slow or self.missing or self.faults)


def ratio_of_pairs(measured: Trials, base: Trials, value: Callable[[Trial], float]) -> float | None:
    """The median, over the turns that both took, of what the one measured over the other."""
    ones, others = measured.counted, base.counted
    pairs = [(value(ones[turn]), value(others[turn])) for turn in ones.keys() & others.keys()]
    return statistics.median(one / other for one, other in pairs) if pairs else None


def wall(trial: Trial) -> float:
    """Seconds of a whole command."""
    return trial.outcome.wall_s


@dataclass(frozen=True, slots=True)
class Series:
    """What does the runs.

    Attributes:
        pythons: The Python of each system that takes part.
        missing: Why others do not.
        scratch: Where runs have their folders.
        bounds: Of each run.
    """

    pythons: Mapping[str, Path]
    missing: Mapping[str, str]
    scratch: Path
    bounds: Bounds

    def take_turns(
        self,
        work: Work,
        repeats: int,
        read: Reader | None = None,
        among: Sequence[str] = ALL,
        close_rounds: int | None = None,
    ) -> dict[str, Trials]:
        """Have every system do the work once, then every system again, ...; then look closely.

        Args:
            work: What to do.
            repeats: How often.
            read: What is read from the folder of a run.
            among: The systems that take part, if they are there.
            close_rounds: Rounds of the runs in which memory is looked at closely, where those of
                `work` are over before a look at all processes is.
        """
        names = [name for name in among if name in self.pythons]
        trials = {name: Trials() for name in names}
        for turn in range(repeats):
            for name in names:
                if trials[name].due() and not (turn and name == WARM):  # it is two runs
                    trials[name].runs[turn] = self._once(name, work, read)
        longer = replace(work, rounds=close_rounds or work.rounds)
        for name in names:
            if not trials[name].fault and (name in OWN or trials[name].wall_s <= _CLOSE_LOOK_S):
                trials[name].close = self._once(name, longer, None, OFTEN).outcome.peaks
        gone = {name: Trials(missing=why) for name, why in self.missing.items() if name in among}
        return trials | gone

    def _once(self, name: str, work: Work, read: Reader | None, *rest: float) -> Trial:
        folder = self.scratch / str(sum(1 for _ in self.scratch.iterdir()))
        folder.mkdir()
        work = replace(work, folder=str(folder))
        trial = self._trial(name, work, read, *rest)
        outcome = trial.outcome
        told = outcome.fault or f"{outcome.wall_s:.2f} s"
        print(f"  {work.task}, {work.clients} clients, {name}: {told}", file=sys.stderr)
        for path in folder.iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        return trial

    def _trial(self, name: str, work: Work, read: Reader | None, *rest: float) -> Trial:
        """A run that cannot begin, or whose figures cannot be read, has failed like any other."""
        try:
            outcome = run(call(name, self.pythons[name], work), self.bounds, *rest)
        except OSError as error:
            return Trial(Outcome(0.0, 0.0, 0.0, Peaks(), f"did not begin: {error}", ""), {})
        outcome = corrected(name, work, outcome)
        if read is None or outcome.fault:
            return Trial(outcome, {})
        try:
            return Trial(outcome, read(work, outcome))
        except (OSError, ValueError, LookupError) as error:
            return Trial(replace(outcome, fault=f"told no figures: {error}"), {})


def corrected(name: str, work: Work, outcome: Outcome) -> Outcome:
    """`flwr run` ends well whatever becomes of the run; of two runs the second one counts."""
    if not name.startswith("flwr") or outcome.fault:
        return outcome
    if not work.done.exists():
        return replace(outcome, fault="did not reach its end")
    if name == WARM:
        return replace(outcome, wall_s=json.loads(work.times.read_text())[-1])
    return outcome
