"""What a program shall do: one JSON object in the environment, read by every process of a run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "COVEY_PEERS_WORK"


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work.

    Attributes:
        task: "trivial", "big", "accuracy" or "tasks".
        clients: Number of clients, all of them in every round.
        rounds: Rounds of federated averaging.
        folder: Where a program may write.
        data: An archive of MNIST, or nothing for scikit-learn's digits.
        training: For "tasks": whether clients train at all.
    """

    task: str
    clients: int
    rounds: int
    folder: str
    data: str = ""
    training: bool = True

    def to_environment(self) -> dict[str, str]:
        """The variable that tells it."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Work:
        """What this process is part of."""
        return cls(**json.loads(os.environ[VARIABLE]))

    @property
    def curve(self) -> Path:
        """Where the accuracy of each round's model is written."""
        return Path(self.folder, "curve.jsonl")

    @property
    def times(self) -> Path:
        """Where the seconds of each round are written."""
        return Path(self.folder, "times.json")

    @property
    def done(self) -> Path:
        """Made by a program that reached its end, where the exit code does not tell."""
        return Path(self.folder, "done")
