"""What a job actor is started with, and what it came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from covey.algorithms import Aggregation, BestModel, Patience, StopCondition
from covey.algorithms.tensors import Layout

from ..downloads.blobs import Blobs
from ..jobs.checkpoint import Checkpoint
from ..jobs.states import RunStatus
from ..jobs.workflow import Workflow, federated_averaging
from ..observe.events import RunEvent
from .messages import Failure


class QuorumLost(Exception):
    """Too few sites can answer for the round to succeed.

    Attributes:
        round: The round.
        failures: Why each failed site did, by site.
    """

    def __init__(
        self, round: int, minimum: int, left: int, failures: Mapping[str, Failure]
    ) -> None:
        """Name the round, what it needed and what it had."""
        super().__init__(f"round {round} needs {minimum} sites and {left} are left")
        self.round = round
        self.failures = dict(failures)


@dataclass(slots=True)
class Progress:
    """How far a job has come, beside the model itself: what a resumed run must know.

    Attributes:
        best: The best version so far.
        patience: Counts rounds without improvement, or None.
        stop: What is good enough, or None.
        stopped: Whether training is to end before its last round.
        evaluators: Sites that can be asked to evaluate alone.
        out: Sites that can do nothing more for the job, and why.
    """

    best: BestModel
    patience: Patience | None = None
    stop: StopCondition | None = None
    stopped: bool = False
    evaluators: dict[str, None] = field(default_factory=dict[str, None])
    out: dict[str, Failure] = field(default_factory=dict[str, Failure])

    def state(self) -> dict[str, Any]:
        """A form for JSON."""
        state: dict[str, Any] = {
            "best_version": self.best.version,
            "best_value": self.best.value,
            "stopped": self.stopped,
            "evaluators": list(self.evaluators),
            "out": {site: asdict(failure) for site, failure in self.out.items()},
        }
        if self.patience is not None:
            state |= {"patience_best": self.patience.best, "patience_waited": self.patience.waited}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self.best.version = state.get("best_version")
        self.best.value = state.get("best_value")
        self.stopped = bool(state.get("stopped"))
        self.evaluators = dict.fromkeys(state.get("evaluators", ()))
        self.out = {site: Failure(**data) for site, data in state.get("out", {}).items()}
        if self.patience is not None:
            self.patience.best = state.get("patience_best")
            self.patience.waited = int(state.get("patience_waited", 0))


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
        task_deadline_s: Seconds a script may take for one task, None for any time.
        workflow: What happens in which order.
        info: Further data of the first event.
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
    task_deadline_s: float | None = None
    workflow: Workflow = federated_averaging
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: its status and, where it failed, why, where and in which round."""

    status: RunStatus
    error: str = ""
    site: str | None = None
    round: int | None = None
    failure: Failure | None = None
