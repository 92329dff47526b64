"""What a job tells of itself: the events of a run, each made in one place.

Decides what an event says and when silence has lasted long enough to be told;
the job decides what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

from ..observe.events import EventKind, RunEvent
from .messages import Failure, Streamed, Update
from .oddities import Oddities
from .plan import JobPlan, Outcome
from .rounds import Round
from .versions import Version

# After this much silence the run says what it waits for, and again after twice
# as long, so that a night's training makes no page of lines.
SILENCE_S = 5.0
NAMED_SITES = 5


class Telling:
    """Records a job's events.

    Args:
        plan: The job's plan, with the callback that takes events.
        now: The clock, in seconds.
        refused: Told of an `OSError` from that callback: the disk is full.
    """

    def __init__(
        self, plan: JobPlan, now: Callable[[], float], refused: Callable[[OSError], None]
    ) -> None:
        """Begin with nothing told."""
        self._plan = plan
        self._now = now
        self._refused = refused
        self._heard = now()
        self._patience_s = SILENCE_S
        self._dropped = False
        self._oddities = Oddities(plan.progress.best.key_metric)

    def _record(
        self,
        kind: EventKind,
        round: int | None,
        site: str | None,
        data: Mapping[str, Any],
    ) -> None:
        try:
            self._plan.record(RunEvent(kind, round, site, data))
        except OSError as error:
            self._refused(error)  # whoever told of the event is not to blame

    def started(self) -> None:
        """The job has begun."""
        plan = self._plan
        data = {
            "name": plan.name,
            "rounds": plan.rounds,
            "unit": plan.progress.unit,
            "sites": len(plan.sites),
            **plan.info,
        }
        self._record(EventKind.RUN_STARTED, None, None, data)

    def round_started(self, work: Round) -> None:
        """A round has begun."""
        data = {"sites": len(work.waiting), "task": work.task}
        self._record(EventKind.ROUND_STARTED, work.number, None, data)
        self.touch()

    def update(
        self,
        task: str,
        number: int,
        site: str,
        update: Update,
        staleness: int | None = None,
        virtual_s: float | None = None,
    ) -> None:
        """A site's update counts; `virtual_s` is what it took in virtual time."""
        data: dict[str, Any] = {
            "task": task,
            "weight": update.weight,
            "seconds": update.seconds,
            "bytes": update.tensors.size if update.tensors else 0,
            "metrics": dict(update.metrics),
        }
        if staleness is not None:
            data["staleness"] = staleness
        if virtual_s is not None:
            data["virtual_s"] = virtual_s
        self._record(EventKind.SITE_FINISHED, number, site, data)
        for value in update.metrics.values():
            if not isfinite(value):
                self._not_finite(number, site, update.metrics)
                return

    def _not_finite(self, number: int, site: str, metrics: Mapping[str, float]) -> None:
        for text in self._oddities.texts(site, number, metrics):
            self.notice(site, text)

    def failure(self, number: int | None, site: str, failure: Failure) -> None:
        """A site has failed."""
        data = {"text": failure.text, "fatal": failure.fatal, **_place(failure)}
        self._record(EventKind.SITE_FAILED, number, site, data)

    def streamed(self, msg: Streamed) -> None:
        """A script streams values; the first that were dropped are told, once in a run."""
        for each in msg.values:
            data = {"key": each.key, "value": each.value, "step": each.step, "type": each.type}
            self._record(EventKind.METRIC, each.round, msg.site, data)
            if isinstance(each.value, float) and not isfinite(each.value):
                self._not_finite(each.round, msg.site, {each.key: each.value})
        if msg.dropped and not self._dropped:
            self._dropped = True
            text = (
                f"{msg.site} streams values faster than they are taken: "
                f"the oldest {msg.dropped} of those that waited were dropped"
            )
            self.notice(msg.site, text)
        self.touch()

    def stays_out(self, site: str, failure: Failure) -> None:
        """A site had failed for good before the run was resumed."""
        text = f"{site} stays out: it failed before with {failure.kind}: {failure.text}"
        self.notice(site, text)

    def last_words(self, site: str, failure: Failure) -> None:
        """Something went wrong in a script's last lines; the run's result does not depend on it."""
        place = f" ({failure.file}, line {failure.line})" if failure.file else ""
        text = f"{site}'s script raised after its last task: {failure.kind}: {failure.text}{place}"
        if failure.kind == "Ended":
            text = f"{site}'s script {failure.text}: it was still at work after its last task"
        elif not failure.traceback:
            text = f"{site}'s script failed after its last task: {failure.text}"
        self.notice(site, text)

    def notice(self, site: str | None, text: str) -> None:
        """Something that changes nothing, but should be known."""
        self._record(EventKind.NOTICE, None, site, {"text": text})

    def version_finished(
        self, version: Version, metrics: Mapping[str, float], best: bool, model_bytes: int
    ) -> None:
        """All sites that were given a version have answered, or are given up."""
        seconds = self._now() - version.began
        data = {
            "task": "train",
            "ok": version.answered,
            "failed": version.failed,
            "seconds": seconds,
            "bytes": model_bytes * (version.failed + 2 * version.answered),
            "metrics": dict(metrics),
            "best": best,
            "staleness": version.staleness / max(1, version.answered),
        }
        if version.time is not None:
            data["virtual_s"] = version.time
        self._record(EventKind.ROUND_FINISHED, version.number, None, data)
        self.touch()

    def round_finished(
        self, work: Round, seconds: float, model_bytes: int, time: float | None = None
    ) -> None:
        """A round is over; `model_bytes` went to each of its sites, of a model made at `time`."""
        metrics = work.metrics()
        best = replace(self._plan.progress.best).offer(work.number, metrics)
        sent = model_bytes * (len(work.done) + len(work.failed))
        received = sum(u.tensors.size for u in work.done.values() if u.tensors is not None)
        data = {
            "task": work.task,
            "ok": len(work.done),
            "failed": len(work.failed),
            "seconds": seconds,
            "bytes": sent + received,
            "metrics": metrics,
            "best": best,
        }
        if time is not None:
            data["virtual_s"] = time
        self._record(EventKind.ROUND_FINISHED, work.number, None, data)

    def finished(self, outcome: Outcome, version: int) -> None:
        """The job is over, at this version of the model."""
        best = self._plan.progress.best
        data: dict[str, Any] = {
            "status": outcome.status.value,
            "error": outcome.error,
            "rounds": version,
            "key_metric": best.key_metric,
            "best_round": best.version,
            "best_value": best.value,
            "stopped_by": self._plan.progress.stopped_by,
        }
        if self._plan.virtual:
            data["virtual_s"] = self._plan.progress.time
        if outcome.failure is not None:
            data |= _place(outcome.failure)
        self._record(EventKind.RUN_FINISHED, outcome.round, outcome.site, data)

    def touch(self) -> None:
        """Something has happened: the silence is over."""
        self._heard = self._now()
        self._patience_s = SILENCE_S

    def silence(self, task: str, number: int, waiting: Collection[str]) -> None:
        """Say what is waited for, if nothing has happened for long."""
        silent = self._now() - self._heard
        if silent < self._patience_s or not waiting:
            return
        self._patience_s *= 2
        names = [site for site, _ in zip(waiting, range(NAMED_SITES), strict=False)]
        data = {"task": task, "sites": names, "count": len(waiting), "seconds": silent}
        self._record(EventKind.WAITING, number, None, data)


def _place(failure: Failure) -> dict[str, Any]:
    """Where a failure is in the user's own code."""
    return {
        "kind": failure.kind,
        "file": failure.file,
        "line": failure.line,
        "source_line": failure.source_line,
        "traceback": failure.traceback,
    }
