"""The trainer: the actor at a site that owns one job's script and speaks for it.

It takes one task at a time, runs the script on it in a child task, and submits
the result until the job has answered. A task that is pushed twice is taken
once; a result whose answer was lost is sent again, and the aggregator counts
it once. What the script does is the launcher's business: a process, a
greenlet and a plain function look the same from here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from covey.client.messages import Metric, Task

from ..downloads.blobs import BlobRef, Blobs
from ..jobs.batches import Batches
from ..jobs.differences import changed
from ..jobs.function import FunctionFailed, FunctionScript
from ..jobs.launchers.errors import ScriptFailed
from ..jobs.launchers.script import WEIGHT_KEY, Script
from ..runtime import (
    Actor,
    ActorError,
    AskTimeout,
    MailboxFull,
    Message,
    Ref,
    Stopped,
    Unreachable,
    handles,
)
from .messages import Assign, Counted, Failure, Retired, Streamed, Submit, Taken, Update, Value

if TYPE_CHECKING:
    from .job import Job

# A result that the job has not acknowledged in this time is sent again; it is
# only an answer to a small message, so a loaded server has ample time.
SUBMIT_TIMEOUT_S = 30.0
# Between two tries, doubled up to the second number.
RETRY_S = (0.05, 5.0)
# A script that has done its last task gets this long for what it does then, such as
# testing the model and writing its files; where nobody waits for that, the second.
LAST_LINES_S = 30.0
SCRIPT_GRACE_S = 2.0
# What a trainer may take beyond that: to kill a script and to send what it streamed.
QUIT_S = 10.0

# Streamed values a trainer holds while the job is slow; the oldest go first,
# since the newest say most about where training is.
METRICS_KEPT = 10_000
# What one message takes of them: one round trip for many values, and, with texts of four
# bytes a character, less than half of the megabyte that its fields may have.
BATCH_VALUES = 256
BATCH_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """What a trainer needs of its site.

    Attributes:
        site: The site's name.
        start: Starts the script, with a callback for streamed metrics.
        blobs: Where models are found and updates are left.
        slots: Limits how many scripts of this host are at work at once, None for no limit.
        warm: Start the script before the first task comes.
        restart: Start the script anew for every task.
        batches: Does the tasks that are for batches, None if none are; see `BatchTrainer`.
    """

    site: str
    start: Callable[[Callable[[Metric], None]], Awaitable[Script]]
    blobs: Blobs
    slots: asyncio.Semaphore | None = None
    warm: bool = True
    restart: bool = False
    batches: Batches | None = None


@dataclass(frozen=True, slots=True)
class Quit(Message["Trainer", Retired]):
    """From the site: end the script, at once if `kill`, else by itself within `grace_s`."""

    kill: bool
    grace_s: float


class Superseded(Exception):
    """A task was given up for another one; nobody waits for its outcome."""


class Trainer(Actor):
    """Runs the tasks of one job at one site."""

    def __init__(self, settings: TrainerSettings, job: Ref[Job], job_id: str) -> None:
        """Serve `job`, whose id is `job_id`."""
        self._settings = settings
        self._job = job
        self._job_id = job_id
        self._starting: asyncio.Future[Script] | None = None
        self._script: Script | None = None
        self._working: tuple[str, int, int] | None = None
        self._latest: tuple[str, int, int] | None = None
        self._round = 0
        # What went wrong after a task, and whether the script's failure has been told already.
        self._aftermath: Failure | None = None
        self._failed_for_good = False
        # The updates made for a task, which may be asked of any of them.
        self._task: tuple[str, int] | None = None
        self._kept: list[BlobRef] = []
        self._metrics: deque[Value] = deque(maxlen=METRICS_KEPT)
        self._streamed = self._dropped = 0
        self._flushing = False
        self._sending = asyncio.Lock()

    async def started(self) -> None:
        """Begin starting the script, so that it is ready when the first task comes."""
        if self._settings.warm:
            self._start()

    def _start(self) -> asyncio.Future[Script]:
        self._starting = starting = asyncio.get_running_loop().create_future()
        self.ctx.run(self._settings.start(self._on_metric), self._on_start)
        return starting

    def _on_start(self, result: Script | Exception) -> None:
        starting = self._starting
        if starting is not None and not starting.done():
            if isinstance(result, Exception):
                starting.set_exception(result)
                starting.exception()  # the first task reports it
            else:
                starting.set_result(result)

    async def stopping(self, reason: str) -> None:
        """End the script: by its own loop if it is idle and ends in time, else by force."""
        script, self._script = self._script, None
        starting = self._starting
        if starting is not None and starting.done() and starting.exception() is None:
            script = starting.result()
        if script is not None:
            if self._working is not None or "kill" in reason:
                script.kill()
            await script.stop(SCRIPT_GRACE_S)
        self._release()

    @handles
    async def quit(self, msg: Quit) -> Retired:
        """End the script; tell what went wrong after its last task."""
        working, self._working = self._working is not None, None  # nobody waits for its outcome
        starting, script = self._starting, self._script
        if starting is not None and starting.done() and starting.exception() is None:
            script = starting.result()
        if script is not None:
            self._starting, self._script = None, script
            if working or msg.kill:
                script.kill()
                await script.stop(SCRIPT_GRACE_S)
            else:
                await self._let_end(script, msg.grace_s)
            self._script = None
        if not msg.kill:
            await self._flush()
        return Retired(self._aftermath)

    async def _let_end(self, script: Script, grace_s: float) -> None:
        """Wait for a script's last lines; note what goes wrong there, once."""
        alive, began = script.pid is not None, self.ctx.now
        error = await script.stop(grace_s)
        if self._failed_for_good or self._aftermath is not None:
            return
        if error is not None:
            self._aftermath = failure_of(error, fatal=False)
        elif alive and self.ctx.now - began >= grace_s:
            self._aftermath = Failure("Ended", f"was ended after {grace_s:g} s", fatal=False)

    @handles
    def assign(self, msg: Assign) -> Taken:
        """Take a task, unless it is the one at work or the one just done."""
        key = (msg.task, msg.round, msg.attempt)
        if key not in (self._working, self._latest):
            if msg.leased or key[:2] != self._task:
                # The next task says that the last update has been folded or given up;
                # another attempt does not.
                self._release()
                self._task = key[:2]
            if self._working is not None:
                self._abandon()
            self._working = key
            self._round = msg.round
            self.begin(msg)
        return Taken()

    def begin(self, msg: Assign) -> None:
        """Begin to work on a task."""
        self.ctx.run(self._work(msg), lambda _: None)

    def superseded(self, msg: Assign) -> bool:
        """Whether another task has taken the place of this one."""
        return self._working != (msg.task, msg.round, msg.attempt)

    def _abandon(self) -> None:
        """Give up the task at work: a late answer would be taken for that of the next one."""
        if self._script is not None:
            self._script.kill()
            self._script = None

    def _release(self) -> None:
        kept, self._kept = self._kept, []
        for blob in kept:
            self._settings.blobs.release(blob.rid)

    # One task --------------------------------------------------------------

    async def _work(self, msg: Assign) -> None:
        await self.deliver(msg, await self._outcome(msg))

    async def deliver(self, msg: Assign, outcome: Update | Failure) -> None:
        """Tell the job what came of a task, and before that what was streamed meanwhile."""
        if not self.superseded(msg):
            await self._flush()
        if not self.superseded(msg):  # by now, either: the job may have been slow to take values
            await self._submit(self.finish(msg, outcome))

    def finish(self, msg: Assign, outcome: Update | Failure) -> Submit:
        """A task is over.

        Free before the job can know: its next task may come in the same turn as its word
        that this result counts, and must not find a script at work.
        """
        key = (msg.task, msg.round, msg.attempt)
        self._working, self._latest = None, key
        if isinstance(outcome, Failure) and outcome.fatal:
            self._failed_for_good = True
        return Submit(self._settings.site, *key, outcome)

    async def _outcome(self, msg: Assign) -> Update | Failure:
        slots = self._settings.slots
        try:
            if slots is None:
                return await self._run(await self._ready(), msg)
            if not self._settings.restart:
                await self._ready()  # outside of the slot: it may start while others train
            async with slots:
                return await self._run(await self._ready(), msg)
        except Exception as error:
            # Whatever it is, the job waits for an answer and must get one.
            return self._failed(error, msg)

    def _failed(self, error: Exception, msg: Assign) -> Failure:
        """Give up what cannot be used again; put the failure as data."""
        late = isinstance(error, TimeoutError) and isinstance(self._script, FunctionScript)
        # A function can be called again, whatever became of its last call.
        own = not late and not isinstance(error, FunctionFailed)
        fatal = own and not self._settings.restart
        if own and not self.superseded(msg) and (not fatal or not isinstance(error, ScriptFailed)):
            self._abandon()  # a script that raised, and is not to come again, ends by itself
        if isinstance(error, TimeoutError) and msg.deadline_s is not None:
            text = f"no answer within {msg.deadline_s:g} s, the task's deadline"
            return Failure("DeadlinePassed", text, fatal=fatal)
        return failure_of(error, fatal)

    async def _ready(self) -> Script:
        """The script, started if need be."""
        while self._script is None:
            starting = self._starting or self._start()
            await asyncio.wait([starting])
            # A task that was given up may have waited for the same start.
            if self._starting is starting:
                self._starting = None
                self._script = starting.result()
        return self._script

    async def _run(self, script: Script, msg: Assign) -> Update:
        """Have the script work on the task; make its answer an update."""
        if self.superseded(msg):
            raise Superseded
        blobs = self._settings.blobs
        path, size = None, 0
        if msg.model is not None:
            model = blobs.open(msg.model.rid)
            path, size = str(model.path), model.size
        task = Task(msg.task, msg.round, msg.total_rounds, path, size, msg.repeat)
        began = time.perf_counter()
        if msg.deadline_s is None:
            result = await script.run(task)
        else:
            async with asyncio.timeout(msg.deadline_s):
                result = await script.run(task)
        seconds = time.perf_counter() - began
        if self._settings.restart:
            if self._script is script:
                self._script = None
            await self._let_end(script, LAST_LINES_S)
        answer, tensors, blob = result.answer, None, result.blob
        params_type = answer.params_type
        if blob is not None and msg.difference and msg.model is not None and params_type == "FULL":
            blob = await changed(blob, blobs.open(msg.model.rid))
            params_type = "DIFF"
        if blob is not None:
            if self.superseded(msg):
                blob.close()
                raise Superseded
            tensors = BlobRef(blobs.register(blob), blob.size)
            self._kept.append(tensors)
        return Update(
            tensors=tensors,
            params_type=params_type,
            weight=_weight(answer.meta.get(WEIGHT_KEY)),
            metrics=answer.metrics,
            seconds=seconds,
            evaluates=answer.evaluates,
        )

    async def _submit(self, submit: Submit, ask: Awaitable[Counted] | None = None) -> None:
        """Send a result until the job answers or is gone; `ask` is a first try under way."""
        pause, longest = RETRY_S
        while True:
            try:
                await (ask or self._job.ask(submit, timeout=SUBMIT_TIMEOUT_S))
                return
            except Stopped:
                return
            except ActorError:
                # Whether it was counted is not known; asking again is safe.
                ask = None
                await asyncio.sleep(pause * self.ctx.rng.uniform(0.5, 1.0))
                pause = min(longest, pause * 2)

    # Streamed metrics ------------------------------------------------------

    def _on_metric(self, metric: Metric) -> None:
        values = self._metrics
        self._dropped += len(values) == METRICS_KEPT
        values.append(Value(metric.key, metric.value, metric.step, metric.kind, self._round))
        if not self._flushing:
            self._flushing = True
            self.ctx.run(self._flush(), lambda _: None)

    async def _flush(self) -> None:
        """Send what is there, in order and batch by batch, until the job has it or is gone."""
        async with self._sending:
            try:
                while self._metrics:
                    values = tuple(_batch(self._metrics))
                    source, first = self.ctx.ref.text, self._streamed
                    self._streamed += len(values)
                    site = self._settings.site
                    await self._stream(Streamed(site, source, first, values, self._dropped))
            finally:
                self._flushing = False

    async def _stream(self, msg: Streamed) -> None:
        pause, longest = RETRY_S
        while True:
            try:
                await self._job.ask(msg, timeout=SUBMIT_TIMEOUT_S)
                return
            except (AskTimeout, MailboxFull, Unreachable):
                # Whether they were taken is not known; the job knows a repetition.
                await asyncio.sleep(pause * self.ctx.rng.uniform(0.5, 1.0))
                pause = min(longest, pause * 2)
            except ActorError:
                return  # nobody wants them, or they cannot be sent; the result is worth more


def failure_of(error: Exception, fatal: bool) -> Failure:
    """An error as data, with the place if it is in the user's own code."""
    if isinstance(error, ScriptFailed):
        fault = error.fault
        place = (fault.file, fault.line, fault.source_line, fault.traceback)
        return Failure(fault.kind, fault.text, *place, fatal=fatal)
    return Failure(type(error).__name__, str(error), fatal=fatal)


def _batch(values: deque[Value]) -> Iterable[Value]:
    """Take what fits one message, at least one value."""
    chars = 0
    for taken in range(min(len(values), BATCH_VALUES)):
        value = values[0]
        chars += len(value.key) + (len(value.value) if isinstance(value.value, str) else 0)
        if taken and chars > BATCH_CHARS:
            return
        yield values.popleft()


def _weight(value: object) -> float:
    """A weight from free data; what is no number counts as absent."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 1.0
    return float(value)
