"""The mathematics of federated learning: tensors in, tensors out.

Here: the aggregation seam and the rules on it, model selection, stopping, partitions, seeds, and
`tensors/`. Not here: anything that waits, sends or knows who takes part. Imports nothing of covey
and, when imported, neither torch nor safetensors.
"""

from __future__ import annotations

from .aggregation import Accumulator, Aggregation, UpdateInfo, WeightedAggregation
from .apply import apply
from .asynchronous import AsynchronousAggregation
from .buffer import Addend, Buffer, Sums
from .errors import (
    AlgorithmError,
    BadHeader,
    BadSetting,
    BadUpdate,
    ManifestMismatch,
    NonFiniteModel,
    NonFiniteUpdate,
    SumsOutstanding,
    TooStale,
    UnsafeFile,
)
from .fedasync import FedAsync
from .fedavg import FedAvg, WeightedMean
from .fedbuff import FedBuff
from .fedopt import FedAdagrad, FedAdam, FedAvgM, FedOpt, FedYogi
from .fold import Contribution, fold, new_state, state_lanes
from .linear import LinearAggregation, Tally
from .optimizers import SGD, Adagrad, Adam, AMSGrad, ServerOptimizer, Yogi
from .partition import partition
from .seeds import derive, generator
from .selection import BestModel, mean_metrics, mode_of
from .staleness import (
    Constant,
    Exponential,
    Hinge,
    Normalised,
    Polynomial,
    Staleness,
    Threshold,
    staleness_of,
)
from .stopping import Patience, StopCondition
from .torch_optimizer import TorchOptimizer

__all__ = [
    "SGD",
    "AMSGrad",
    "Accumulator",
    "Adagrad",
    "Adam",
    "Addend",
    "Aggregation",
    "AlgorithmError",
    "AsynchronousAggregation",
    "BadHeader",
    "BadSetting",
    "BadUpdate",
    "BestModel",
    "Buffer",
    "Constant",
    "Contribution",
    "Exponential",
    "FedAdagrad",
    "FedAdam",
    "FedAsync",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedOpt",
    "FedYogi",
    "Hinge",
    "LinearAggregation",
    "ManifestMismatch",
    "NonFiniteModel",
    "NonFiniteUpdate",
    "Normalised",
    "Patience",
    "Polynomial",
    "ServerOptimizer",
    "Staleness",
    "StopCondition",
    "Sums",
    "SumsOutstanding",
    "Tally",
    "Threshold",
    "TooStale",
    "TorchOptimizer",
    "UnsafeFile",
    "UpdateInfo",
    "WeightedAggregation",
    "WeightedMean",
    "Yogi",
    "apply",
    "derive",
    "fold",
    "generator",
    "mean_metrics",
    "mode_of",
    "new_state",
    "partition",
    "staleness_of",
    "state_lanes",
]
