"""The trainer of a site whose function trains many sites in one call.

It differs from others in where the work is done: its tasks join a batch with those of other
sites on this node. All that the job sees of it is the same.
"""

from __future__ import annotations

from functools import partial

from covey.client.messages import Task

from ..downloads.blobs import BlobRef
from ..downloads.errors import BlobError
from ..jobs.batches import Made, Place
from .messages import Assign, Failure, Update
from .trainer import SUBMIT_TIMEOUT_S, Trainer, failure_of


class BatchTrainer(Trainer):
    """Has batched functions do the tasks of one job at one site."""

    async def stopping(self, reason: str) -> None:
        """Leave: nobody waits for a call that is under way."""
        self._working = None
        await super().stopping(reason)

    def begin(self, msg: Assign) -> None:
        """Join a batch, if the task is for one."""
        settings, batches = self._settings, self._settings.batches
        if batches is None or msg.model is None or not batches.takes(msg.task):
            super().begin(msg)
            return
        try:
            model = settings.blobs.open(msg.model.rid).buffer
        except BlobError as error:
            self._done(msg, error)
            return
        task = Task(msg.task, msg.round, msg.total_rounds, None, model.nbytes, msg.repeat)
        batches.join(
            Place(
                settings.site,
                task,
                msg.model.rid,
                model,
                msg.difference,
                msg.deadline_s,
                self._on_metric,
                partial(self._done, msg),
            )
        )

    def _done(self, msg: Assign, result: Made | Exception) -> None:
        """The batch is over: tell the job, at once if it has time."""
        if self.superseded(msg):
            return
        outcome = self._outcome_of(msg, result)
        if self._metrics or self._sending.locked():
            self.ctx.run(self.deliver(msg, outcome), lambda _: None)
            return
        submit = self.finish(msg, outcome)
        ask = self._job.ask(submit, timeout=SUBMIT_TIMEOUT_S)
        if not ask.done() or ask.exception() is not None:
            self.ctx.run(self._submit(submit, ask), lambda _: None)

    def _outcome_of(self, msg: Assign, result: Made | Exception) -> Update | Failure:
        if isinstance(result, TimeoutError) and msg.deadline_s is not None:
            text = f"no answer within {msg.deadline_s:g} s, the task's deadline, times the sites"
            return Failure("DeadlinePassed", text, fatal=False)
        if isinstance(result, Exception):
            return failure_of(result, fatal=False)
        tensors = None
        if result.blob is not None:
            tensors = BlobRef(self._settings.blobs.register(result.blob), result.blob.size)
            self._kept.append(tensors)
        batches = self._settings.batches
        evaluates = batches is not None and batches.evaluates
        return Update(
            tensors, result.params_type, result.weight, result.metrics, result.seconds, evaluates
        )
