"""FedOpt and its family over whole rounds, against plain loops over vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from covey.algorithms import (
    SGD,
    Adam,
    BadSetting,
    Contribution,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedOpt,
    FedYogi,
    LinearAggregation,
    UpdateInfo,
    new_state,
    state_lanes,
)
from covey.algorithms.tensors import DTYPES, Layout

from .blobs import DIFF, F64, FULL, blob_of, flat, folded, lanes_of, numbers

SIZE, SITES, ROUNDS = 40, 4, 6
Server = Callable[[dict[str, F64], F64, int], F64]


def momentum(kept: dict[str, F64], delta: F64, number: int) -> F64:
    kept["v"] = 0.9 * kept.get("v", np.zeros(SIZE)) + delta
    return kept["v"]


def adaptive(update: Callable[[F64, F64], F64], lr: float, beta1: float, tau: float) -> Server:
    """Reddi et al. 2021, algorithm 2, lines 10 to 15."""

    def step(kept: dict[str, F64], delta: F64, number: int) -> F64:
        kept["m"] = beta1 * kept.get("m", np.zeros(SIZE)) + (1 - beta1) * delta
        kept["v"] = update(kept.get("v", np.full(SIZE, tau**2)), delta)
        return lr * kept["m"] / (np.sqrt(kept["v"]) + tau)

    return step


FAMILY: dict[str, tuple[LinearAggregation, Server]] = {
    "FedAvgM": (FedAvgM(), momentum),
    "FedAdagrad": (FedAdagrad(), adaptive(lambda v, d: v + d**2, 0.1, 0.0, 1e-3)),
    "FedAdam": (FedAdam(), adaptive(lambda v, d: 0.99 * v + 0.01 * d**2, 0.01, 0.9, 1e-3)),
    "FedYogi": (
        FedYogi(),
        adaptive(lambda v, d: v - 0.01 * d**2 * np.sign(v - d**2), 0.01, 0.9, 1e-3),
    ),
    "a schedule": (
        FedOpt(SGD(0.5), schedule=lambda number: 1 / number),
        lambda kept, delta, number: 0.5 / number * delta,
    ),
}


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("kind", [FULL, DIFF])
@pytest.mark.parametrize(("dtype", "within"), [("F64", 1e-12), ("F32", 1e-6)])
def test_six_rounds_are_the_papers(name: str, kind: Any, dtype: str, within: float) -> None:
    rule, server = FAMILY[name]
    layout, random = flat(SIZE, dtype), np.random.default_rng(1)
    model = blob_of(layout, {"x": random.standard_normal(SIZE)})
    state = new_state(layout, rule)
    expected, kept = numbers(model, layout), dict[str, F64]()
    for number in range(1, ROUNDS + 1):
        old, updates, mean = numbers(model, layout), list[Contribution](), np.zeros(SIZE)
        weights = random.integers(1, 500, SITES)
        for site, weight in enumerate(weights):
            own = old + random.standard_normal(SIZE) * 0.1
            blob = blob_of(layout, {"x": own if kind == FULL else own - old})
            sent = numbers(blob, layout) - (old if kind == FULL else 0)
            mean += weight / weights.sum() * sent
            updates.append(Contribution(f"site-{site}", float(weight), kind, blob))
        model = folded(model, layout, updates, rule, state, number)
        expected = expected + server(kept, mean, number)
        error = np.linalg.norm(numbers(model, layout) - expected) / np.linalg.norm(expected)
        assert error < within


def mixed() -> Layout:
    return Layout.canonical(
        [("w", DTYPES["F32"], (5,)), ("steps", DTYPES["I64"], ()), ("mask", DTYPES["BOOL"], (3,)),
         ("head", DTYPES["F32"], (2,))], "torch",
    )  # fmt: skip


def test_integers_and_bools_are_what_fedavg_makes_of_them() -> None:
    layout, random = mixed(), np.random.default_rng(2)

    def state() -> Mapping[str, Any]:
        return {
            "w": random.standard_normal(5), "head": random.standard_normal(2),
            "steps": random.integers(0, 1000), "mask": random.integers(0, 2, 3),
        }  # fmt: skip

    old = blob_of(layout, state())
    updates = [Contribution(f"s{i}", 1.0 + i, FULL, blob_of(layout, state())) for i in range(3)]
    rule = FedAdam(lr=0.5)
    ours = folded(old, layout, updates, rule, new_state(layout, rule))
    plain = folded(old, layout, updates, FedAvg())
    for name in ("steps", "mask"):
        np.testing.assert_array_equal(lanes_of(ours, layout, name), lanes_of(plain, layout, name))
    assert (numbers(ours, layout, "w") != numbers(plain, layout, "w")).all()


def test_excluded_variables_stay_and_have_no_state() -> None:
    layout, rule = mixed(), FedAdam(exclude_vars=["head"])
    assert state_lanes(layout, rule) == 5 + 1
    old = blob_of(layout, {"w": np.ones(5), "head": [7.0, 8.0], "steps": 3, "mask": [0, 1, 0]})
    answers = rule.answers(layout)
    update = blob_of(answers, {"w": np.zeros(5), "steps": 5, "mask": [1, 1, 1]})
    state = new_state(layout, rule)
    new = folded(old, layout, [Contribution("s", 1.0, FULL, update)], rule, state)
    np.testing.assert_array_equal(numbers(new, layout, "head"), [7.0, 8.0])
    np.testing.assert_array_equal(numbers(new, layout, "steps"), [5.0])
    assert (numbers(new, layout, "w") < 1.0).all()
    assert set(state) == {"momentum", "variance"}
    assert all(array.shape == (6,) for array in state.values())


def test_with_learning_rate_one_and_no_momentum_it_is_fedavg() -> None:
    layout, random = flat(1000), np.random.default_rng(3)
    old = blob_of(layout, {"x": random.standard_normal(1000)})
    updates = [
        Contribution(f"s{i}", 1.0 + i, FULL, blob_of(layout, {"x": random.standard_normal(1000)}))
        for i in range(5)
    ]
    ours = numbers(folded(old, layout, updates, FedOpt(SGD())), layout)
    np.testing.assert_allclose(
        ours, numbers(folded(old, layout, updates, FedAvg()), layout), rtol=1e-6, atol=1e-7
    )


def test_it_weighs_as_fedavg() -> None:
    factors = {"site-1": 3.0}
    for rule in (FedOpt(Adam(), aggregation_weights=factors), FedAvgM(aggregation_weights=factors)):
        assert rule.weigh(UpdateInfo("site-1", 5.0)) == 15.0
        assert rule.weigh(UpdateInfo("site-2", 5.0)) == 5.0
    with pytest.raises(BadSetting, match="aggregation_weights"):
        FedYogi(aggregation_weights={"site-1": math.nan})


def test_a_rule_without_its_state_is_refused() -> None:
    layout, rule = flat(4), FedAdam()
    blob = blob_of(layout, {"x": np.ones(4)})
    updates = [Contribution("s", 1.0, FULL, blob)]
    with pytest.raises(BadSetting, match="'momentum' is missing"):
        folded(blob, layout, updates, rule)
    with pytest.raises(BadSetting, match="'variance' has shape"):
        folded(blob, layout, updates, rule, {"momentum": np.zeros(4), "variance": np.zeros(3)})
