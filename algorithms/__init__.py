"""The mathematics of federated learning: tensors in, tensors out.

Here: the aggregation seam and the rules on it, model selection, stopping, partitions, seeds, and
`tensors/`. Not here: anything that waits, sends or knows who takes part. Imports nothing of covey
and, when imported, neither torch nor safetensors.
"""

from __future__ import annotations

from .aggregation import Accumulator, Aggregation, UpdateInfo
from .errors import (
    AlgorithmError,
    BadHeader,
    BadSetting,
    BadUpdate,
    ManifestMismatch,
    NonFiniteUpdate,
    UnsafeFile,
)
from .fedavg import FedAvg, WeightedMean
from .fold import Contribution, fold, state_lanes
from .partition import partition
from .seeds import derive, generator
from .selection import BestModel, mean_metrics, mode_of
from .stopping import Patience, StopCondition

__all__ = [
    "Accumulator",
    "Aggregation",
    "AlgorithmError",
    "BadHeader",
    "BadSetting",
    "BadUpdate",
    "BestModel",
    "Contribution",
    "FedAvg",
    "ManifestMismatch",
    "NonFiniteUpdate",
    "Patience",
    "StopCondition",
    "UnsafeFile",
    "UpdateInfo",
    "WeightedMean",
    "derive",
    "fold",
    "generator",
    "mean_metrics",
    "mode_of",
    "partition",
    "state_lanes",
]
