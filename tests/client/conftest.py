"""What the client tests share: a session over a channel made of lists."""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from covey.algorithms.tensors import Layout, load_initial
from covey.client import session
from covey.client.messages import Answer, ModelKind, Stop, Task, TaskName, Welcome
from covey.client.running import ScriptSession
from covey.transport import Record


@dataclass
class ListChannel:
    """A channel whose messages to come are given, and whose sent ones are kept."""

    inbox: list[Record] = field(default_factory=list[Record])
    sent: list[Record] = field(default_factory=list[Record])
    blobs: list[bytes] = field(default_factory=list[bytes])

    def send(self, message: Record, fds: tuple[int, ...] = ()) -> None:
        self.sent.append(message)
        self.blobs.extend(os.pread(fd, 1 << 20, 0) for fd in fds)

    def receive(self, timeout_s: float | None) -> Record:
        if not self.inbox:
            assert timeout_s is not None, "the script would wait for ever"
            raise TimeoutError
        return self.inbox.pop(0)


@dataclass
class Desk:
    """A script's place: its model file, and its session, which is the current one."""

    layout: Layout
    model: Path
    channel: ListChannel

    def give(self, *rounds: int, name: TaskName = "train") -> None:
        for round in rounds:
            path = None if name == "submit_model" else str(self.model)
            self.channel.inbox.append(Task(name, round, 3, path, self.layout.size))

    def end(self) -> None:
        self.channel.inbox.append(Stop())

    @property
    def answers(self) -> list[Answer]:
        return [message for message in self.channel.sent if isinstance(message, Answer)]

    def join(self, kind: ModelKind = "numpy", exclude: tuple[str, ...] = ()) -> None:
        session.install(ScriptSession(welcome(kind, exclude), self.channel))


def welcome(kind: ModelKind = "numpy", exclude: tuple[str, ...] = ()) -> Welcome:
    return Welcome(
        site="site-1",
        job_id="job-1",
        script="/client.py",
        args=(),
        cwd="/",
        env={},
        path=(),
        seed=7,
        kind=kind,
        torch_threads=1,
        exclude=exclude,
        config={"lr": 0.5},
    )


@pytest.fixture
def desk(tmp_path: Path) -> Generator[Desk]:
    state = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int64(3)}
    initial = load_initial(state)
    model = tmp_path / "model.safetensors"
    fd = os.open(model, os.O_CREAT | os.O_WRONLY)
    initial.write(fd)
    os.close(fd)
    place = Desk(initial.layout, model, ListChannel())
    place.join()
    yield place
    session.install(None)
