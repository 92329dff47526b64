"""The records that a training script and its trainer exchange.

Here: plain data, ids 200-299, one class per message, and the registry of them. Not here: how a
script is started (`covey.actors.jobs.launchers`), how the Client API behaves (`running.py`).

A conversation: the trainer's side sends `Welcome` once, then one `Task` at a time, and `Stop` at
the end. The script's side sends `Ready` when it calls `init()`, one `Answer` for each task,
`Metric` whenever it likes, and as its last word `Failed` or `Ended`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from covey.transport import Record, Registry, Scalar

TaskName: TypeAlias = Literal["train", "evaluate", "submit_model"]
ModelKind: TypeAlias = Literal["torch", "numpy"]
MetricKind: TypeAlias = Literal["scalar", "text", "parameter", "tag"]


@dataclass(frozen=True, slots=True)
class Welcome(Record, id=200):
    """To the script's process: who it is and what it runs. Sent once, first.

    Attributes:
        site: Name of the site.
        job_id: Id of the job.
        script: Absolute path of the script.
        args: Its arguments, without the script's own name.
        cwd: Working directory to start in.
        env: The whole environment of the process.
        path: Folders put on `sys.path` after the script's own.
        seed: The run's seed, from which the random state is derived.
        kind: Kind of arrays that models are handed out as.
        torch_threads: Intra-op threads that torch may use.
        exclude: Variables of the model that are left out of updates.
        config: What `get_config()` returns.
        state: Absolute path of a folder for what the client keeps from round to round, which it
            makes itself; "" if it can keep nothing.
    """

    site: str
    job_id: str
    script: str
    args: tuple[str, ...]
    cwd: str
    env: dict[str, str]
    path: tuple[str, ...]
    seed: int
    kind: ModelKind
    torch_threads: int
    exclude: tuple[str, ...]
    config: dict[str, Scalar]
    state: str = ""


@dataclass(frozen=True, slots=True)
class Task(Record, id=210):
    """To the script: work on this model.

    Attributes:
        name: What is asked for.
        round: Round the task belongs to, from 0.
        total_rounds: Rounds of the whole run.
        model: Absolute path of the global model, a safetensors file that stays in place until
            the answer; None when the task carries no model (`submit_model`).
        size: Size of that file in bytes, 0 without one.
        repeat: How often the site has had this round's model before, in training without rounds.
    """

    name: TaskName
    round: int
    total_rounds: int
    model: str | None = None
    size: int = 0
    repeat: int = 0


@dataclass(frozen=True, slots=True)
class Stop(Record, id=212):
    """To the script: there are no more tasks; `is_running()` returns False from now on."""


@dataclass(frozen=True, slots=True)
class Ready(Record, id=201):
    """From the script: it has called `init()`.

    Attributes:
        pid: Its process id.
    """

    pid: int


@dataclass(frozen=True, slots=True)
class Answer(Record, id=211):
    """From the script: what `send()` was given for the current task.

    The tensors, if any, are a sealed memory file in the layout of the global model, whose
    descriptor goes along with the envelope.

    Attributes:
        task: Name of the task that is answered.
        round: Its round.
        params_type: Whether the tensors are the whole model or a difference from it.
        has_tensors: Whether a descriptor goes along.
        size: Bytes of the tensors' blob, 0 without tensors.
        metrics: Metrics of the model that was received.
        meta: Free data; `NUM_STEPS_CURRENT_ROUND` is the weight.
        evaluates: Whether the script has called `is_evaluate()` and so tells tasks apart: it can
            then be asked to evaluate alone.
    """

    task: TaskName
    round: int
    params_type: Literal["FULL", "DIFF"] = "FULL"
    has_tensors: bool = False
    size: int = 0
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    meta: dict[str, Scalar] = field(default_factory=dict[str, Scalar])
    evaluates: bool = False


@dataclass(frozen=True, slots=True)
class Metric(Record, id=213):
    """From the script: one value of a curve, streamed while it trains.

    Attributes:
        key: Name of the curve.
        value: A number, or text for the other kinds.
        step: The script's own step, None if it gave none.
        kind: What the value is.
    """

    key: str
    value: Scalar
    step: int | None = None
    kind: MetricKind = "scalar"


@dataclass(frozen=True, slots=True)
class Failed(Record, id=214):
    """From the script, last: it raised.

    Attributes:
        kind: Name of the exception's class.
        text: What the exception says.
        traceback: The whole traceback as Python prints it, from the script's own first frame.
        file: File of the deepest frame that is the user's own, "" if there is none.
        line: Line in that file, 0 if there is none.
        source_line: The source of that line, stripped.
    """

    kind: str
    text: str
    traceback: str
    file: str = ""
    line: int = 0
    source_line: str = ""


@dataclass(frozen=True, slots=True)
class Ended(Record, id=215):
    """From the script, last: it ran to its end.

    It tells a script that returned from one that was cut off with the same exit code.
    """


#: Everything either side may send; the only ids that a script's link accepts.
MESSAGES: Final = (Welcome, Task, Stop, Ready, Answer, Metric, Failed, Ended)


def messages() -> Registry:
    """A frozen registry that holds exactly the messages between a script and its trainer."""
    registry = Registry()
    registry.add(*MESSAGES)
    registry.freeze()
    return registry
