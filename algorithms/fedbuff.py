"""FedBuff: buffered asynchronous aggregation.

Not here: the buffer (`buffer.py`), its step (`apply.py`), the staleness functions
(`staleness.py`), who trains when and with which version (actors).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal, TypeAlias, get_args

from .aggregation import UpdateInfo
from .asynchronous import AsynchronousAggregation
from .errors import BadSetting
from .linear import Tally
from .optimizers import SGD, ServerOptimizer, check_optimizer, takes_whole_tensors
from .staleness import Staleness
from .tensors.dtypes import F64

DivideBy: TypeAlias = Literal["count", "weight"]
Weights: TypeAlias = Literal["equal", "reported"]

_PAPER: Final = SGD(1.0)


class FedBuff(AsynchronousAggregation):
    """FedBuff: a step of the server for every K updates, whenever they started.

    Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: "Federated Learning with Buffered
    Asynchronous Aggregation", AISTATS 2022, algorithm 1. With M sites at work at all times:

    1. A site i that is free gets the newest model w_t and its version t_i = t.
    2. It trains, starting from w_{t_i}, gets y_i, and sends d_i = y_i - w_{t_i}.
    3. The server takes d_i in when it comes: tau_i = t - t_i; buf = buf + s(tau_i) p_i d_i;
       k = k + 1; the site is free again.
    4. If k = K: w_{t+1} = ServerOpt(w_t, -buf / K, lr, t); t = t + 1; buf = 0; k = 0.

    `weigh` gives s(tau_i) p_i of step 3, `combine` is step 4. The difference is against the model
    that the site started from, never against the current one (that is `FedAsync`). If more than K
    updates are in the buffer when it steps, or fewer, the divisor is their number.

    With `optimizer=AMSGrad(...)` and a `delay_threshold` this is FADAS (Wang, Wang, Lu, Chen:
    "FADAS: Towards Federated Adaptive Asynchronous Optimization", ICML 2024), whose learning rate
    falls with the delay of the stalest update in the buffer. Here it falls to lr / delay; the
    paper's min(lr, 1 / delay) does nothing at learning rates as small as adaptive optimizers take.

    Args:
        buffer_size: K, the updates that make a step.
        staleness: s: a name such as "polynomial", or any callable; see `staleness.py`.
        max_staleness: Updates staler than this are refused; None for no limit.
        weights: p_i: 1 for each update, or what the site reports (its number of samples). Either
            is multiplied by `aggregation_weights`.
        divide_by: "count", as the paper, so that staleness makes steps smaller; or "weight", the
            sum of s(tau_i) p_i. None is "count" for equal weights and "weight" for reported
            ones, which would otherwise multiply the learning rate.
        optimizer: The server optimizer; None for plain steps with learning rate 1.
        delay_threshold: Above this staleness in a buffer, its step is divided by the largest
            staleness in it; None for never.
        exclude_vars: Variables that are not aggregated and keep their old values.
        aggregation_weights: Factor per site, 1 for a site that is not named.

    Raises:
        BadSetting: A setting is unknown or out of its range.
    """

    def __init__(
        self,
        *,
        buffer_size: int = 10,
        staleness: str | Staleness = "polynomial",
        max_staleness: int | None = None,
        weights: Weights = "equal",
        divide_by: DivideBy | None = None,
        optimizer: ServerOptimizer | None = None,
        delay_threshold: int | None = None,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            buffer_size=buffer_size,
            staleness=staleness,
            max_staleness=max_staleness,
            exclude_vars=exclude_vars,
            aggregation_weights=aggregation_weights,
        )
        _check_choice("weights", weights, get_args(Weights))
        if divide_by is not None:
            _check_choice("divide_by", divide_by, get_args(DivideBy))
        if delay_threshold is not None and delay_threshold < 0:
            raise BadSetting("delay_threshold", f"{delay_threshold}; must be >= 0, or None")
        self.weights: Weights = weights
        self.divide_by: DivideBy = divide_by or ("count" if weights == "equal" else "weight")
        self.optimizer = optimizer or _PAPER
        check_optimizer(self.optimizer)
        self.whole_tensors = takes_whole_tensors(self.optimizer)
        self.delay_threshold = delay_threshold
        self.state_names = self.optimizer.state_names

    def weigh(self, info: UpdateInfo) -> float:
        """What an update is multiplied by: s(tau_i) p_i.

        Raises:
            TooStale: It is staler than `max_staleness`.
            BadUpdate: The reported weight is negative, infinite or not a number.
            BadSetting: The staleness function gives no weight at this staleness.
        """
        return self.discount(info) if self.weights == "equal" else super().weigh(info)

    def combine(
        self,
        total: F64,
        tally: Tally,
        old: F64,
        out: F64,
        state: Mapping[str, F64],
        number: int,
    ) -> None:
        """Step 4."""
        total /= tally.count if self.divide_by == "count" else tally.weight or 1.0
        self.optimizer.step(total, old, out, state, number, self.scale(tally))

    def scale(self, tally: Tally) -> float:
        """Factor on the learning rate for the delay of the stalest update."""
        threshold = self.delay_threshold
        if threshold is None or tally.max_staleness <= threshold:
            return 1.0
        return 1.0 / tally.max_staleness


def _check_choice(setting: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise BadSetting(setting, f"{given!r} is none of {', '.join(map(repr, choices))}")
