"""What the federation's actors say to each other; ids 100-199.

Four of these move state and may arrive twice: `Register`, `Assign`, `Submit`
and `Streamed`. Each carries a key (site; job, task, round and attempt; site and
round; trainer and number) by which its receiver recognises a repetition. Tensors never travel in
a message: updates and models are named by `BlobRef`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from covey.client.messages import MetricKind, TaskName
from covey.transport import Record, Scalar

from ..downloads.blobs import BlobRef
from ..runtime import Message, Pull

if TYPE_CHECKING:  # named in strings below, which the linter does not read
    from .aggregator import Aggregator  # noqa: F401
    from .buffering import BufferedAggregator  # noqa: F401
    from .job import Job  # noqa: F401
    from .server import Server  # noqa: F401
    from .site import Site  # noqa: F401
    from .trainer import Trainer  # noqa: F401

Verdict = Literal["accepted", "duplicate", "late", "stale", "refused"]


@dataclass(frozen=True, slots=True)
class Register(Message["Server", "Registered"], id=100):
    """A site is there; sent at its start and again after every restart.

    Attributes:
        site: The site's name.
        address: Its actor's address, on whichever node that is.
    """

    site: str
    address: str


@dataclass(frozen=True, slots=True)
class Registered(Record, id=101):
    """The server knows the site; `sites` is how many it knows by now."""

    sites: int


@dataclass(frozen=True, slots=True)
class Deploy(Message["Site", "Deployed"], id=102):
    """Make a trainer for a job, or name the one there is.

    Attributes:
        job: Id of the job.
        reply_to: The job actor's address.
        attempt: Counts the job's calls for trainers: no two trainers of a job have one
            address, so that news of the end of one is never taken for that of the next.
    """

    job: str
    reply_to: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Deployed(Record, id=103):
    """The trainer's address."""

    trainer: str


@dataclass(frozen=True, slots=True)
class Retire(Message["Site", "Retired"], id=104):
    """The job is over: stop its trainer. `kill` ends a script without its grace."""

    job: str
    kill: bool = False


@dataclass(frozen=True, slots=True)
class Retired(Record, id=106):
    """The trainer is gone; `failure` is what went wrong after its script's last task."""

    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Returned(Message["Job", None], id=105):
    """From the server: a site has registered again while the job runs, maybe elsewhere."""

    site: str
    address: str


@dataclass(frozen=True, slots=True)
class Assign(Message["Trainer", "Taken"], id=110):
    """Work on a task.

    Attributes:
        job: Id of the job.
        task: What is to be done.
        round: Round of the task, from 0.
        attempt: Counts how often this site was given this round's task.
        total_rounds: Rounds of the whole run.
        model: The global model, None for tasks without one.
        deadline_s: Seconds the script may take once it is at work, None for any time.
        difference: Whether parameters are to come as what training changed of `model`.
        leased: Whether the update is done with when the next task comes, whatever its round;
            else it may be folded until a task of another round comes.
        repeat: How often this site has had this version before: random draws differ.
    """

    job: str
    task: TaskName
    round: int
    attempt: int
    total_rounds: int
    model: BlobRef | None = None
    deadline_s: float | None = None
    difference: bool = False
    leased: bool = False
    repeat: int = 0


@dataclass(frozen=True, slots=True)
class Taken(Record, id=111):
    """The trainer has the task, now or from before."""


@dataclass(frozen=True, slots=True)
class Update(Record, id=112):
    """What a site made of a task.

    Attributes:
        tensors: Its parameters, None where the task asks for none.
        params_type: Whether they are a model or a difference.
        weight: Weight in the average, before the recipe's own per-site weights.
        metrics: Measured on the model that was received.
        seconds: Time at work.
        evaluates: Whether the site's script tells tasks apart, so that it can be
            asked to evaluate alone.
    """

    tensors: BlobRef | None
    params_type: Literal["FULL", "DIFF"] = "FULL"
    weight: float = 1.0
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0
    evaluates: bool = False


@dataclass(frozen=True, slots=True)
class Failure(Record, id=113):
    """Why a site made nothing of a task.

    Attributes:
        kind: Name of the exception's class, or of what happened.
        text: What it says.
        file: The user's own file, "" if the failure is not in it.
        line: Line in that file.
        source_line: That line.
        traceback: All of it.
        fatal: Whether the site can do nothing more for this job.
    """

    kind: str
    text: str
    file: str = ""
    line: int = 0
    source_line: str = ""
    traceback: str = ""
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class Submit(Message["Job", "Counted"], id=114):
    """A site's result, sent until it is answered; (site, task, round, attempt) is its key."""

    site: str
    task: TaskName
    round: int
    attempt: int
    outcome: Update | Failure


@dataclass(frozen=True, slots=True)
class Counted(Record, id=115):
    """What became of a result.

    It counts, has counted before, is too late for its round, comes after its lease or from
    too old a version (stale), or is unfit (refused).
    """

    verdict: Verdict
    text: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """A value that a script streams while it trains."""

    key: str
    value: Scalar
    step: int | None
    type: MetricKind
    round: int


@dataclass(frozen=True, slots=True)
class Streamed(Message["Job", None], id=116):
    """Values of a script's curves, sent until they are taken; (source, first) is the key.

    Attributes:
        site: Whose script streams them.
        source: Address of its trainer, which counts its values anew.
        first: Number of the first of them.
        values: The values, in the order in which they were streamed.
        dropped: How many values the trainer has had no room for by now.
    """

    site: str
    source: str
    first: int
    values: tuple[Value, ...]
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Begin(Message["Aggregator", None], id=120):
    """Aggregate towards the model after `round`, from this one on."""

    round: int
    model: BlobRef


@dataclass(frozen=True, slots=True)
class Contribute(Message["Aggregator", Counted], id=121):
    """One site's update for the round; (site, round) counts once."""

    site: str
    round: int
    update: Update


@dataclass(frozen=True, slots=True)
class Step(Message["Aggregator", "Stepped"], id=122):
    """Fold what has come in and make the next model.

    It names no sites: a message has a bound, a federation need not have one.

    Attributes:
        round: The round.
        apart: Whether each site's own model is to be kept, too.
    """

    round: int
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Stepped(Record, id=123):
    """The next model.

    Attributes:
        model: Its blob.
        folded: How many updates are in it.
        unfit: Sites whose update was left out, and why.
    """

    model: BlobRef
    folded: int
    unfit: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Leased(Record, id=136):
    """An update, and the lease that it was made under.

    Attributes:
        site: Who sent it.
        lease: Number of the lease.
        version: Version of the model that it began from.
        update: The update.
    """

    site: str
    lease: int
    version: int
    update: Update


@dataclass(frozen=True, slots=True)
class Fill(Message["BufferedAggregator", "Filled"], id=130):
    """Updates for the buffer, of different leases, in the order in which they came.

    Each lease counts once, however often it is sent.
    """

    updates: tuple[Leased, ...]


@dataclass(frozen=True, slots=True)
class Advanced(Record, id=134):
    """A new version is there.

    Attributes:
        version: Its number.
        model: Its blob.
        stalenesses: Those of the updates in it, in the order in which they came.
        lost: Updates that had counted and are in no version, since the last one.
        seconds: How long making it took.
        error: Why there is none, and will be none any more; "" if there is.
    """

    version: int
    model: BlobRef
    stalenesses: tuple[int, ...] = ()
    lost: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Entered(Record, id=137):
    """What became of one update.

    Attributes:
        verdict: Whether it counts; "stale" if it began from too old a version.
        text: Why not.
        staleness: Versions that had been made since the one it began from.
    """

    verdict: Verdict
    text: str = ""
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class Filled(Record, id=131):
    """What became of updates.

    Attributes:
        entered: Of each of them, in their order.
        version: The newest version, whether it is there or on its way.
        room: How many more updates make the next one.
        made: New versions that are there already, oldest first.
    """

    entered: tuple[Entered, ...]
    version: int
    room: int
    made: tuple[Advanced, ...] = ()


@dataclass(frozen=True, slots=True)
class Flush(Message["BufferedAggregator", "Flushed"], id=132):
    """Make a version of what is in the buffer, or drop it.

    Attributes:
        number: Counts the flushes, so that one that is sent again is known.
        known: The newest version that is known.
        last: Training is over: nothing is taken any more.
        drop: Make no version of it.
    """

    number: int
    known: int
    last: bool = False
    drop: bool = False


@dataclass(frozen=True, slots=True)
class Flushed(Record, id=133):
    """How many updates were in the buffer, and the versions made since the one known."""

    updates: int
    made: tuple[Advanced, ...] = ()


@dataclass(frozen=True, slots=True)
class Follow(Pull["BufferedAggregator", Advanced], id=135):
    """Be told of every version after this one."""

    version: int


def role_messages() -> tuple[type[Record], ...]:
    """All messages of the roles, to be added to a federation's registry."""
    return (
        Register,
        Registered,
        Deploy,
        Deployed,
        Retire,
        Retired,
        Returned,
        Assign,
        Taken,
        Submit,
        Counted,
        Streamed,
        Begin,
        Contribute,
        Step,
        Stepped,
        Leased,
        Fill,
        Entered,
        Filled,
        Flush,
        Flushed,
        Advanced,
        Follow,
    )
