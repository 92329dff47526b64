"""Which version of the model was the best.

Here: `BestModel`, and the mean of sites' metrics it is judged by. Not here: keeping the model's
bytes (the job), stopping (`stopping.py`).

Metrics that come with an update were measured on the model that the site received: they belong
to that version, and never to the aggregate that the update goes into.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from .errors import BadSetting

Mode: TypeAlias = Literal["min", "max"]

# Words of metric names for which less is better; everything else (accuracy, f1, auc, dice, bleu,
# reward, ...) is better when larger.
# fmt: off
_LESS_IS_BETTER: Final = frozenset((
    "loss", "losses", "error", "errors", "err", "mse", "rmse", "mae", "mape", "msle", "nll", "bce",
    "perplexity", "ppl", "wer", "cer", "fid", "divergence", "distance", "deviation", "eer",
    "brier", "regret", "cost", "time", "seconds", "latency",
))
# fmt: on


def mode_of(key_metric: str, mode: str = "auto") -> Mode:
    """Whether less or more of a metric is better; "auto" tells by the words of its name.

    Raises:
        BadSetting: `mode` is none of "min", "max" and "auto".
    """
    if mode == "min":
        return "min"
    if mode == "max":
        return "max"
    if mode != "auto":
        raise BadSetting("mode", f"{mode!r} is none of 'min', 'max' and 'auto'")
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", key_metric)
    words = re.split(r"[^a-z0-9]+", spaced.lower())
    if words[0] == "neg":  # scikit-learn's way of turning an error round: neg_mean_squared_error
        return "max"
    return "min" if _LESS_IS_BETTER.intersection(words) else "max"


def is_better(value: float, best: float | None, mode: Mode, min_delta: float = 0.0) -> bool:
    """Whether a value beats the best so far; NaN and the wrong infinity never do, a tie neither."""
    if math.isnan(value) or math.isinf(value):
        return False
    if best is None:
        return True
    return value < best - min_delta if mode == "min" else value > best + min_delta


def mean_metrics(reports: Iterable[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    """The weighted mean of each metric over the sites that reported it, in the order given.

    A site's NaN makes the mean NaN: a version that is broken somewhere is not the best one.

    Args:
        reports: Pairs of a site's metrics and its weight. Weights that are all zero count alike.
    """
    values: dict[str, list[tuple[float, float]]] = {}
    for metrics, weight in reports:
        for key, value in metrics.items():
            values.setdefault(key, []).append((float(value), float(weight)))
    return {key: _mean(pairs) for key, pairs in values.items()}


def _mean(pairs: list[tuple[float, float]]) -> float:
    total = sum(weight for _, weight in pairs)
    if total == 0:
        return sum(value for value, _ in pairs) / len(pairs)
    return sum(value * weight for value, weight in pairs) / total


@dataclass(slots=True)
class BestModel:
    """Keeps the version whose key metric is best; of equals, the earliest.

    The state of a resumed run is put back by giving `version` and `value`.

    Attributes:
        key_metric: Name of the metric.
        mode: "min", "max", or "auto" to tell by the name; resolved when made.
        version: Best version so far, or None.
        value: Its metric, or None.

    Raises:
        BadSetting: An unknown mode.
    """

    key_metric: str
    mode: str = "auto"
    version: int | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        self.mode = mode_of(self.key_metric, self.mode)

    def offer(self, version: int, metrics: Mapping[str, float]) -> bool:
        """Consider a version by metrics measured on it; True if it is the best from now on.

        A version whose key metric is missing, NaN or infinite never is.
        """
        value = metrics.get(self.key_metric, math.nan)
        if not is_better(value, self.value, mode_of(self.key_metric, self.mode)):
            return False
        self.version, self.value = version, float(value)
        return True
