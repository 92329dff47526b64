"""A script and a launcher, as the rest of the system sees them.

Here: the settings of one script, the two seams `Script` and `Launcher`, and what a task comes
to. Not here: the ways of running one (`fork.py`, `spawn.py`, `inline.py`), nor deadlines: a
caller that wants one puts it around `Script.run` and kills the script when it fires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from covey.client.messages import Answer, Metric, ModelKind, Task
from covey.transport import Scalar

from ...downloads.blobs import Blob
from .errors import ScriptError

#: Called on the loop with each metric a script streams; must not raise or block.
OnMetric: TypeAlias = Callable[[Metric], None]

#: Called on the loop with text for the user's terminal: whole lines, each with its line end.
Terminal: TypeAlias = Callable[[str], None]

#: What clients call the number of steps they trained in `meta`: their weight in the mean.
WEIGHT_KEY: Final = "NUM_STEPS_CURRENT_ROUND"

_NO_CONFIG: Mapping[str, Scalar] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ScriptSettings:
    """Everything that makes one client's script its own.

    Attributes:
        site: Name of the site.
        job_id: Id of the job.
        script: Path of the script.
        args: Its arguments.
        cwd: Folder the script starts in.
        env: Its whole environment; usually `os.environ` with additions.
        log: File that its output is appended to; the folder must exist.
        seed: The run's seed (64 bits, signed).
        kind: Kind of arrays in which models are handed out.
        echo: Prefix of its lines on the terminal, None to keep them in the log alone.
        torch_threads: Intra-op threads torch may use. One by default: clients train side by
            side, and more threads than cores cost more than they bring.
        gpus: Devices it may see, set as CUDA_VISIBLE_DEVICES; empty leaves `env` as it is.
        path: Folders put on `sys.path` after the script's own.
        exclude: Variables of the model that are left out of updates; an update's blob then has
            the layout `layout.without(exclude)`.
        config: What `get_config()` returns in the script.
        state: Folder for what the client keeps from round to round, None if it can keep nothing.
    """

    site: str
    job_id: str
    script: Path
    cwd: Path
    env: Mapping[str, str]
    log: Path
    seed: int
    kind: ModelKind
    args: tuple[str, ...] = ()
    echo: str | None = None
    torch_threads: int = 1
    gpus: tuple[int, ...] = ()
    path: tuple[Path, ...] = ()
    exclude: tuple[str, ...] = ()
    config: Mapping[str, Scalar] = field(default_factory=lambda: _NO_CONFIG)
    state: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a script made of one task.

    Attributes:
        answer: Its answer.
        blob: The tensors, read-only and sealed, None if there are none. The caller owns it and
            closes it.
    """

    answer: Answer
    blob: Blob | None


class Script(Protocol):
    """One running script. All methods belong to the loop that started it."""

    @property
    def site(self) -> str:
        """Name of the site."""
        ...

    @property
    def pid(self) -> int | None:
        """Process id while it runs in a process of its own, None once it has ended."""
        ...

    async def run(self, task: Task) -> Outcome:
        """Give the script a task and wait for its answer; one task at a time.

        Bounded by nothing but the script itself. Cancelling the wait leaves the script at work
        on the task: `kill` it, for its late answer would be taken for that of the next task
        and ends the script as a `BadAnswer`.

        Raises:
            ScriptFailed: The script raised.
            ScriptDied: Its process ended without a word.
            ScriptEnded: It ended by itself without answering.
            BadAnswer: The answer does not fit the task, or its tensors are not sealed.
        """
        ...

    async def wait(self) -> ScriptError | None:
        """Wait until the script has ended, and tell how: None if it ended well or was killed."""
        ...

    async def stop(self, grace_s: float) -> ScriptError | None:
        """Tell the script that there are no more tasks, wait, and kill it after `grace_s`.

        Returns:
            What went wrong in its last lines; None if it ended well or had to be killed.
        """
        ...

    def kill(self) -> None:
        """End the script and every process it started at once; idempotent, never waits."""
        ...


class Launcher(Protocol):
    """A way to run scripts."""

    async def start(self, settings: ScriptSettings, on_metric: OnMetric) -> Script:
        """Start a script; returns when it runs, before it has called `init()`.

        Cancelling the start leaves no process behind.

        Raises:
            LauncherError: If it cannot be started.
        """
        ...

    async def close(self) -> None:
        """Kill what still runs and wait (bounded) until no process is left; idempotent."""
        ...
