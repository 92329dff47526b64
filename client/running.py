"""A script's session: what the Client API does inside a run.

Here: the order of calls, checking and packing of answers, handing out of models, seeding. Not
here: how messages travel: that is the `Channel`, one for a process of its own and one for
scripts that share a process, both beside the launchers that need them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Protocol, cast

from covey.algorithms.tensors import Packer, read_layout, unpack_private
from covey.algorithms.tensors.control import has_control, join, split
from covey.transport import LocalProtocolError, Record

from .errors import BadMetric, BadModel, RunEnded, WrongCall
from .messages import Answer, Metric, MetricKind, Ready, Stop, Task, Welcome
from .model import FLModel, ParamsType
from .seeding import derive, seed_everything
from .state import ClientState
from .updates import answer, metric_value, step_of, write_update

#: A script that receives one task more often than this is in a loop that never answers.
_MAX_RECEIVES: Final = 8


class Channel(Protocol):
    """How a session's messages travel."""

    def send(self, message: Record, fds: tuple[int, ...] = ()) -> None:
        """Send a message with duplicates of `fds`; from any thread. Raises `RunEnded`."""
        ...

    def receive(self, timeout_s: float | None) -> Record:
        """Wait for the next message. Raises `TimeoutError` and `RunEnded`."""
        ...


class ScriptSession:
    """The conversation of one script with its trainer; see `session.Session`.

    Args:
        welcome: Who the script is.
        channel: How its messages travel.
    """

    def __init__(self, welcome: Welcome, channel: Channel) -> None:
        self._welcome = welcome
        self._channel = channel
        self._pid = os.getpid()
        self._initialised = False
        self._stopped = False
        self._task: Task | None = None
        self._received: FLModel | None = None
        self._receives = 0
        self._evaluates = False
        self._packer: Packer | None = None  # of the last model; one is enough for a run
        self._update: Packer | None = None
        self._has_control = False

    @property
    def job_id(self) -> str:
        """Id of the job."""
        return self._welcome.job_id

    @property
    def site(self) -> str:
        """Name of the site."""
        return self._welcome.site

    @property
    def config(self) -> dict[str, object]:
        """The run's settings for scripts, a copy."""
        return {"job_id": self.job_id, "site_name": self.site, **self._welcome.config}

    @property
    def state(self) -> ClientState:
        """What the client keeps from round to round."""
        folder = self._welcome.state
        return ClientState(Path(folder) if folder else None)

    @property
    def task_name(self) -> str:
        """Name of the current task; raises `WrongCall` if there is none."""
        if self._task is None:
            raise WrongCall("task", "no task is open; call is_running() or receive() first")
        return self._task.name

    def asked_for(self, task: str) -> bool:
        """Whether the current task is this one; asking for "evaluate" shows that it is known."""
        self._evaluates = self._evaluates or task == "evaluate"
        return self.task_name == task

    def init(self) -> None:
        """Say that the script is ready; idempotent."""
        if not self._initialised:
            self._initialised = True
            self._channel.send(Ready(os.getpid()))

    def is_running(self) -> bool:
        """Wait for the next task or the end."""
        self._check_turn("is_running()")
        if self._task is None:
            return self._next_task(None)
        if self._received is not None:
            # Legitimate once in a while; a loop of it is a script that forgot to answer.
            self._count_receive("is_running()")
        return True

    def receive(self, timeout: float | None) -> FLModel | None:
        """The model of the current or next task."""
        self._check_turn("receive()")
        if self._task is None and not self._next_task(timeout):
            return None
        assert self._task is not None
        self._count_receive("receive()")
        if self._received is None:
            self._received = self._open(self._task)
        return self._received

    def send(self, model: FLModel, clear_cache: bool) -> None:
        """Answer the current task."""
        self._check_turn("send()")
        task = self._task
        if task is None or self._received is None:
            raise WrongCall("send()", "there is nothing to answer; call receive() first")
        if not isinstance(model, FLModel):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadModel("send()", f"expected an FLModel, got a {type(model).__name__}")
        if task.name == "evaluate":
            self._deliver(answer(task, model, 0, self._evaluates), None)
        else:
            self._send_tensors(task, model, clear_cache)
        if clear_cache:
            model.params = model.optimizer_params = model.control = None
            self._received.params = self._received.control = None
        self._close_task()

    def log(self, key: str, value: object, kind: str, step: object) -> None:
        """Stream a metric."""
        single = metric_value(key, value, kind)
        metric = Metric(str(key), single, step_of(key, step), cast("MetricKind", kind))
        try:
            self._channel.send(metric)
        except LocalProtocolError as error:
            raise BadMetric(key, error.why) from None

    def clear(self) -> None:
        """Drop the references to what was received."""
        if self._received is not None:
            self._received.params = None
        self._packer = self._update = None

    def shutdown(self) -> None:
        """Take no more tasks."""
        self._stopped = True
        self._close_task()
        self.clear()

    def _check_turn(self, call: str) -> None:
        if not self._initialised:
            raise WrongCall(call, "init() has not been called yet; call covey.client.init() first")
        if os.getpid() != self._pid:
            raise WrongCall(
                call, "the Client API belongs to the script's own process; this is a child of it"
            )

    def _count_receive(self, call: str) -> None:
        self._receives += 1
        if self._receives > _MAX_RECEIVES:
            assert self._task is not None
            raise WrongCall(
                call,
                f"the task {self._task.name!r} of round {self._task.round} was received over and "
                "over and never answered; call send() once for each task",
            )

    def _next_task(self, timeout_s: float | None) -> bool:
        if self._stopped:
            return False
        try:
            message = self._channel.receive(timeout_s)
        except TimeoutError:
            return False
        if isinstance(message, Task):
            self._task = message
            self._receives = 0
            seed_everything(derive(self._welcome.seed, self.site, message.round))
            return True
        if not isinstance(message, Stop):
            raise RunEnded(f"a {type(message).__name__} came where a task was due")
        self._stopped = True
        return False

    def _open(self, task: Task) -> FLModel:
        params = self._map(task.model) if task.model is not None else None
        control = None
        if params is not None and self._has_control:
            params, control = split(params)
        return FLModel(
            params=params,
            control=control,
            current_round=task.round,
            total_rounds=task.total_rounds,
            meta={"job_id": self.job_id, "site_name": self.site},
        )

    def _map(self, path: str) -> dict[str, Any]:
        """The tensors of the global model, on pages shared until they are written to."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            packer = self._packer
            known = packer.layout if packer is not None else None
            if known is None or os.pread(fd, known.data_start, 0) != known.header:
                layout = read_layout(fd)
                excluded = self._welcome.exclude
                self._packer = packer = Packer(layout, self._welcome.kind)
                self._update = Packer(layout.without(excluded), ignore=excluded)
                self._has_control = has_control(layout)
            assert packer is not None
            return unpack_private(fd, packer)
        finally:
            os.close(fd)

    def _send_tensors(self, task: Task, model: FLModel, clear_cache: bool) -> None:
        if model.params is None:
            raise BadModel("params", f"is None, but the task {task.name!r} is answered by a model")
        if self._update is None:
            raise WrongCall("send()", "no global model has been received to compare with")
        if self._has_control:
            model = _joined(model)
        # Everything that is cheap to check comes before the tensors, which may be released.
        message = answer(task, model, self._update.layout.size, self._evaluates)
        fd = self._write(self._update, model, release=clear_cache)
        self._deliver(message, fd)

    def _write(self, packer: Packer, model: FLModel, *, release: bool) -> int:
        """Write the update; what was received and trained in place is freed on the way as well."""
        received = self._received
        shared = received is not None and received is not model and received.params is model.params
        if received is None or not (shared and release):
            return write_update(packer, model, release=release)
        received.params = None
        try:
            return write_update(packer, model, release=True)
        except BadModel:
            received.params = model.params  # the task stays open
            raise

    def _deliver(self, message: Answer, fd: int | None) -> None:
        try:
            self._channel.send(message, () if fd is None else (fd,))
        except LocalProtocolError as error:
            raise BadModel(error.where, error.why) from None
        finally:
            if fd is not None:
                os.close(fd)

    def _close_task(self) -> None:
        self._task = None
        self._received = None


def _joined(model: FLModel) -> FLModel:
    """A model with its control variates among its parameters."""
    if model.control is None or model.params_type is not ParamsType.FULL:
        why = "is None, but the recipe is SCAFFOLD; send what Scaffold.update() returns"
        raise BadModel("control", why)
    assert model.params is not None
    return FLModel(params=join(model.params, model.control), metrics=model.metrics, meta=model.meta)
