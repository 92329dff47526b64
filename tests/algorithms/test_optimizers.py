"""Server optimizers against plain loops written from their papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.algorithms import (
    SGD,
    Adagrad,
    Adam,
    AMSGrad,
    BadSetting,
    FedBuff,
    FedOpt,
    ServerOptimizer,
    Yogi,
)

from .blobs import F64

Oracle = Callable[[Sequence[float], Sequence[float]], list[float]]

LR, BETA1, BETA2, TAU, MOMENTUM = 0.3, 0.9, 0.99, 0.01, 0.8


def momentum_oracle(nesterov: bool) -> Oracle:
    """Hsu et al. 2019, section 4.3; Nesterov as Sutskever et al. 2013 rewritten for gradients."""

    def run(deltas: Sequence[float], scales: Sequence[float]) -> list[float]:
        w, v, path = 1.0, 0.0, list[float]()
        for delta, scale in zip(deltas, scales, strict=True):
            v = MOMENTUM * v + delta
            w = w + LR * scale * (delta + MOMENTUM * v if nesterov else v)
            path.append(w)
        return path

    return run


def plain_oracle(deltas: Sequence[float], scales: Sequence[float]) -> list[float]:
    w, path = 1.0, list[float]()
    for delta, scale in zip(deltas, scales, strict=True):
        w = w + LR * scale * delta
        path.append(w)
    return path


def fedopt_oracle(name: str, beta1: float) -> Oracle:
    """Reddi et al. 2021, algorithm 2."""

    def run(deltas: Sequence[float], scales: Sequence[float]) -> list[float]:
        x, m, v, path = 1.0, 0.0, TAU**2, list[float]()
        for delta, scale in zip(deltas, scales, strict=True):
            m = beta1 * m + (1 - beta1) * delta
            if name == "adagrad":
                v = v + delta**2
            elif name == "yogi":
                sign = (v > delta**2) - (v < delta**2)
                v = v - (1 - BETA2) * delta**2 * sign
            else:
                v = BETA2 * v + (1 - BETA2) * delta**2
            x = x + LR * scale * m / (math.sqrt(v) + TAU)
            path.append(x)
        return path

    return run


def fadas_oracle(deltas: Sequence[float], scales: Sequence[float]) -> list[float]:
    """Wang et al. 2024, algorithm 1."""
    x, m, v, v_hat, path = 1.0, 0.0, 0.0, 0.0, list[float]()
    for delta, scale in zip(deltas, scales, strict=True):
        m = BETA1 * m + (1 - BETA1) * delta
        v = BETA2 * v + (1 - BETA2) * delta**2
        v_hat = max(v_hat, v)
        x = x + LR * scale * m / (math.sqrt(v_hat) + TAU)
        path.append(x)
    return path


CASES: dict[str, tuple[ServerOptimizer, Oracle]] = {
    "sgd": (SGD(LR), plain_oracle),
    "momentum": (SGD(LR, MOMENTUM), momentum_oracle(False)),
    "nesterov": (SGD(LR, MOMENTUM, nesterov=True), momentum_oracle(True)),
    "adagrad": (Adagrad(LR, tau=TAU), fedopt_oracle("adagrad", 0.0)),
    "adagrad with momentum": (Adagrad(LR, BETA1, TAU), fedopt_oracle("adagrad", BETA1)),
    "adam": (Adam(LR, BETA1, TAU, BETA2), fedopt_oracle("adam", BETA1)),
    "yogi": (Yogi(LR, BETA1, TAU, BETA2), fedopt_oracle("yogi", BETA1)),
    "amsgrad": (AMSGrad(LR, BETA1, TAU, BETA2), fadas_oracle),
}


def walked(
    optimizer: ServerOptimizer, deltas: Sequence[F64], scales: Sequence[float], cut: int
) -> list[F64]:
    """The models after each step, made in two parts cut anywhere."""
    size = len(deltas[0])
    state = {name: np.zeros(size) for name in optimizer.state_names}
    model: F64 = np.ones(size)
    path: list[F64] = []
    for number, (delta, scale) in enumerate(zip(deltas, scales, strict=True), 1):
        new: F64 = np.full(size, np.nan)
        model.flags.writeable = False
        for part in (slice(0, cut), slice(cut, size)):
            own = {name: array[part] for name, array in state.items()}
            optimizer.step(delta[part].copy(), model[part], new[part], own, number, scale)
        path.append(new.copy())
        model = new
    return path


@pytest.mark.parametrize("name", CASES)
@given(seed=st.integers(0, 2**32), cut=st.integers(0, 9), scale=st.floats(0.01, 2.0))
@settings(max_examples=25, deadline=None)
def test_ten_steps_are_the_papers(name: str, seed: int, cut: int, scale: float) -> None:
    optimizer, oracle = CASES[name]
    random = np.random.default_rng(seed)
    deltas: list[F64] = [
        random.standard_normal(9) * 10.0 ** random.integers(-4, 2) for _ in range(10)
    ]
    scales = [scale if number % 3 else 1.0 for number in range(10)]
    path = walked(optimizer, deltas, scales, cut)
    for place in range(9):
        expected = oracle([float(delta[place]) for delta in deltas], scales)
        np.testing.assert_allclose([new[place] for new in path], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_coordinate_that_never_moves_stays(name: str) -> None:
    path = walked(CASES[name][0], [np.zeros(3)] * 5, [1.0] * 5, 1)
    assert all((new == 1.0).all() for new in path)


def test_the_first_step_begins_anew_whatever_the_state_holds() -> None:
    for optimizer in (Adam(), AMSGrad(), Yogi(), Adagrad()):
        used = {name: np.full(4, 7.0) for name in optimizer.state_names}
        fresh = {name: np.zeros(4) for name in optimizer.state_names}
        outs: list[F64] = []
        for state in (used, fresh):
            out: F64 = np.empty(4)
            optimizer.step(np.arange(4.0), np.ones(4), out, state, 1)
            outs.append(out)
        np.testing.assert_array_equal(outs[0], outs[1])


def test_plain_descent_keeps_nothing() -> None:
    assert SGD().state_names == ()
    assert SGD(momentum=0.9).state_names == ("velocity",)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: SGD(0.0), "lr"),
        (lambda: SGD(math.nan), "lr"),
        (lambda: SGD(math.inf), "lr"),
        (lambda: SGD(1.0, 1.0), "momentum"),
        (lambda: SGD(1.0, -0.1), "momentum"),
        (lambda: SGD(1.0, nesterov=True), "nesterov"),
        (lambda: Adagrad(lr=-1.0), "lr"),
        (lambda: Adam(beta1=1.0), "beta1"),
        (lambda: Adam(beta2=-0.1), "beta2"),
        (lambda: Yogi(tau=0.0), "tau"),
        (lambda: AMSGrad(tau=math.nan), "tau"),
        (lambda: Adam(lr=cast("float", "0.1")), "lr"),
        (lambda: Adam(lr=cast("float", None)), "lr"),
        (lambda: Adam, "optimizer"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Any], setting: str) -> None:
    optimizer = make()
    for rule in (FedOpt, FedBuff):
        with pytest.raises(BadSetting) as caught:
            rule(optimizer=optimizer)
        assert caught.value.setting == setting
