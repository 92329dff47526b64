"""FedOpt and its family: a server optimizer on the mean difference.

Not here: the optimizers (`optimizers.py`), the drivers (`fold.py`, `buffer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from .linear import LinearAggregation, Tally
from .optimizers import (
    SGD,
    Adagrad,
    Adam,
    ServerOptimizer,
    Yogi,
    check_optimizer,
    takes_whole_tensors,
)
from .tensors.dtypes import F64


class FedOpt(LinearAggregation):
    """FedOpt: the weighted mean of the sites' differences is an optimizer's gradient.

    Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: "Adaptive Federated
    Optimization", ICLR 2021, algorithms 1 and 2. In round t:

    1. The server picks sites S_t and sends them the model x_t.
    2. Each site i trains, starting from x_t, and gets x_i; its difference is d_i = x_i - x_t.
    3. The server takes the mean, delta_t = sum over i in S_t of (n_i / n) d_i.
    4. The server sets x_{t+1} = ServerOpt(x_t, -delta_t, lr, t).

    This class is steps 3 and 4, with n_i the weight that a site reports, times
    `aggregation_weights[i]`. Sites may send x_i or d_i. Integers and bool tensors are no
    parameters: they become what FedAvg makes of them.

    Args:
        optimizer: The server optimizer.
        schedule: Factor on its learning rate, by the number of the step, the first being 1.
        exclude_vars: Variables that are not aggregated and keep their old values.
        aggregation_weights: Factor per site, 1 for a site that is not named.

    Raises:
        BadSetting: A factor is negative, infinite or not a number, or a setting of the optimizer
            is out of its range.
    """

    def __init__(
        self,
        optimizer: ServerOptimizer,
        *,
        schedule: Callable[[int], float] | None = None,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(exclude_vars=exclude_vars, aggregation_weights=aggregation_weights)
        check_optimizer(optimizer)
        self.optimizer = optimizer
        self.whole_tensors = takes_whole_tensors(optimizer)
        self.schedule = schedule
        self.state_names = optimizer.state_names

    def combine(
        self,
        total: F64,
        tally: Tally,
        old: F64,
        out: F64,
        state: Mapping[str, F64],
        number: int,
    ) -> None:
        """Steps 3 and 4."""
        total /= tally.weight or 1.0
        scale = 1.0 if self.schedule is None else self.schedule(number)
        self.optimizer.step(total, old, out, state, number, scale)


class FedAvgM(FedOpt):
    """FedAvgM: FedAvg with momentum on the server (Hsu, Qi, Brown 2019); see `SGD`, `FedOpt`."""

    def __init__(
        self,
        *,
        lr: float = 1.0,
        momentum: float = 0.9,
        nesterov: bool = False,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            SGD(lr, momentum, nesterov),
            exclude_vars=exclude_vars,
            aggregation_weights=aggregation_weights,
        )


class FedAdagrad(FedOpt):
    """FedAdagrad (Reddi et al. 2021, algorithm 2); see `Adagrad`, `FedOpt`."""

    def __init__(
        self,
        *,
        lr: float = 0.1,
        beta1: float = 0.0,
        tau: float = 1e-3,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            Adagrad(lr, beta1, tau),
            exclude_vars=exclude_vars,
            aggregation_weights=aggregation_weights,
        )


class FedAdam(FedOpt):
    """FedAdam (Reddi et al. 2021, algorithm 2); see `Adam`, `FedOpt`."""

    def __init__(
        self,
        *,
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 1e-3,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            Adam(lr, beta1, tau, beta2),
            exclude_vars=exclude_vars,
            aggregation_weights=aggregation_weights,
        )


class FedYogi(FedOpt):
    """FedYogi (Reddi et al. 2021, algorithm 2); see `Yogi`, `FedOpt`."""

    def __init__(
        self,
        *,
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 1e-3,
        exclude_vars: Collection[str] = (),
        aggregation_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            Yogi(lr, beta1, tau, beta2),
            exclude_vars=exclude_vars,
            aggregation_weights=aggregation_weights,
        )
