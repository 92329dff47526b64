"""What a job actor is started with, and what it came to."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from covey.algorithms import Aggregation, BestModel, Patience, StopCondition
from covey.algorithms.tensors import Layout

from ..downloads.blobs import Blobs
from ..jobs.checkpoint import Checkpoint
from ..jobs.states import RunStatus
from ..jobs.workflow import Workflow, federated_averaging
from ..observe.alike import sort_of
from ..observe.events import RunEvent
from .messages import Failure

if TYPE_CHECKING:
    from .job import Job, Training


class QuorumLost(Exception):
    """Too few sites can answer for the round to succeed.

    Attributes:
        round: The round, or the version.
        failures: Why each failed site did, by site.
        alike: Whether all of the `sites` have failed, and alike.
    """

    def __init__(
        self,
        round: int,
        minimum: int,
        left: int,
        sites: int,
        failures: Mapping[str, Failure],
        *,
        answered: bool = True,
        unit: str = "round",
    ) -> None:
        """Name the round, what it needed and what it had; `answered` says whether anybody has.

        Where there are no rounds, `unit` says what `round` is the number of.
        """
        same = len(failures) > 1 and are_alike(failures)
        self.alike = same and len(failures) == sites
        # One mistake that is in every script is not cured by doing without some of them.
        advise = left and (answered or not same)
        less = f" (min_clients={left} would go on without the rest)" if advise else ""
        count = "1 is" if left == 1 else f"{left} are"
        lost = f"{unit} {round} needs {minimum} sites and {count} left{less}"
        super().__init__(f"all {sites} sites failed alike" if self.alike else lost)
        self.round = round
        self.failures = dict(failures)


def are_alike(failures: Mapping[str, Failure]) -> bool:
    """Whether sites failed with the same error at the same place."""
    each = failures.items()
    return len({sort_of(site, f.kind, f.text, f.file, f.line) for site, f in each}) == 1


#: What only asynchronous training counts.
_ASYNCHRONOUS: Final = ("updates", "judged", "lost", "stale", "dropped")


@dataclass(slots=True)
class Progress:
    """How far a job has come, beside the model itself: what a resumed run must know.

    Attributes:
        best: The best version so far.
        patience: Counts rounds without improvement, or None.
        stop: What is good enough, or None.
        stopped_by: Why training is to end before its last round, "" while it is not.
        evaluators: Sites that can be asked to evaluate alone.
        out: Sites that can do nothing more for the job, and why.
        time: Virtual seconds of training so far; 0 in real time.
        updates: Updates that are in versions, and the lost ones; None in training by rounds.
        judged: Versions of which all has been said; as `updates`, rows of `metrics.jsonl`.
        lost: Updates that had counted, and were lost in a crash of the aggregator.
        stale: Results that did not count for having come too late.
        dropped: Updates that had counted and were left when the last version was made.
    """

    best: BestModel
    patience: Patience | None = None
    stop: StopCondition | None = None
    stopped_by: str = ""
    evaluators: dict[str, None] = field(default_factory=dict[str, None])
    out: dict[str, Failure] = field(default_factory=dict[str, Failure])
    time: float = 0.0
    updates: int | None = None
    judged: int = 0
    lost: int = 0
    stale: int = 0
    dropped: int = 0

    @property
    def unit(self) -> Literal["round", "version"]:
        """What training is counted in: nobody waits for the others in a version."""
        return "round" if self.updates is None else "version"

    def judge(self, version: int, metrics: Mapping[str, float]) -> bool:
        """Take the metrics of a version; True if it is the best so far."""
        better = self.best.offer(version, metrics)
        if self.patience is not None and self.patience.observe(metrics):
            count = self.patience.rounds
            self.stopped_by = f"patience: no better {self.best.key_metric} for {count} {self.unit}s"
        if self.stop is not None and self.stop.met(metrics):
            value = metrics[self.stop.metric]
            self.stopped_by = f"stop_cond: {self.stop.metric} {value:.4g}"
        return better

    def unreported(self, metrics: Mapping[str, float]) -> list[str]:
        """What to tell of metrics that are waited for and were not reported."""
        texts: list[str] = []
        key, stop = self.best.key_metric, self.stop
        # A script without any metric wants none; one that waits for them does.
        if key not in metrics and (metrics or self.patience is not None):
            texts.append(
                f"key metric {key!r} was not reported{_instead(key, metrics)}; without it no best "
                "model is picked: set key_metric=, or report it"
            )
        if stop is not None and stop.metric != key and stop.metric not in metrics:
            seen = _instead(stop.metric, metrics)
            texts.append(f"stop_cond waits for {stop.metric!r}, which was not reported{seen}")
        return texts

    def state(self) -> dict[str, Any]:
        """A form for JSON."""
        state: dict[str, Any] = {
            "best_version": self.best.version,
            "best_value": self.best.value,
            "stopped_by": self.stopped_by,
            "evaluators": list(self.evaluators),
            "out": {site: asdict(failure) for site, failure in self.out.items()},
            "time": self.time,
        }
        if self.updates is not None:
            state |= {name: getattr(self, name) for name in _ASYNCHRONOUS}
        if self.patience is not None:
            state |= {"patience_best": self.patience.best, "patience_waited": self.patience.waited}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.best.version = state.get("best_version")
        self.best.value = state.get("best_value")
        self.stopped_by = str(state.get("stopped_by", ""))
        self.evaluators = dict.fromkeys(state.get("evaluators", ()))
        self.out = {site: Failure(**data) for site, data in state.get("out", {}).items()}
        self.time = float(state.get("time", 0.0))
        for name in _ASYNCHRONOUS:
            setattr(self, name, state.get(name, getattr(self, name)))
        if self.patience is not None:
            self.patience.best = state.get("patience_best")
            self.patience.waited = int(state.get("patience_waited", 0))


def _instead(name: str, metrics: Mapping[str, float]) -> str:
    """What was reported instead, with the nearest name."""
    if not metrics:
        return " (nothing was)"
    near = difflib.get_close_matches(name, list(metrics), n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f" (got: {', '.join(sorted(metrics)[:5])}{hint})"


def _nothing() -> None:
    """Nothing is held back."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """Everything a job actor needs.

    Attributes:
        id: The job's id.
        name: The recipe's name.
        sites: Who takes part, in the order in which updates are folded.
        minimum: Results without which a round fails.
        rounds: Number of rounds.
        rule: The aggregation.
        layout: The model's layout.
        blobs: Where models and updates are found.
        checkpoint: Where versions are kept; holds the current one.
        version: The current version, which is also the first round to run.
        progress: What is known of earlier rounds.
        record: Takes every event; an `OSError` it raises fails the run.
        crashed: Told if the job actor itself fails.
        training: Makes what the job does with its sites.
        task_deadline_s: Seconds a script may take for one task, None for any time.
        workflow: What happens in which order.
        info: Further data of the first event.
        write: Writes events that were recorded and are held back; raises `OSError`. What is
            committed must not be ahead of what is written.
        virtual: Whether tasks take virtual time.
    """

    id: str
    name: str
    sites: tuple[str, ...]
    minimum: int
    rounds: int
    rule: Aggregation
    layout: Layout
    blobs: Blobs
    checkpoint: Checkpoint
    version: int
    progress: Progress
    record: Callable[[RunEvent], None]
    crashed: Callable[[str], None]
    training: Callable[[Job], Training]
    task_deadline_s: float | None = None
    workflow: Workflow = federated_averaging
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    write: Callable[[], None] = _nothing
    virtual: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: its status and, where it failed, why, where and in which round."""

    status: RunStatus
    error: str = ""
    site: str | None = None
    round: int | None = None
    failure: Failure | None = None
