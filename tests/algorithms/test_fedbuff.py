"""FedBuff and FedAsync against plain reference loops written from their papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.algorithms import (
    SGD,
    Adam,
    AMSGrad,
    AsynchronousAggregation,
    BadSetting,
    BadUpdate,
    Buffer,
    Constant,
    Contribution,
    Exponential,
    FedAsync,
    FedAvg,
    FedBuff,
    Hinge,
    Normalised,
    Polynomial,
    Staleness,
    Tally,
    Threshold,
    TooStale,
    UpdateInfo,
    apply,
    new_state,
)
from covey.algorithms.tensors import Layout

from .blobs import DIFF, F64, FULL, blob_of, flat, folded, numbers

SIZE = 30
FUNCTIONS: dict[str, Staleness] = {
    "constant": Constant(),
    "polynomial": Polynomial(0.5),
    "threshold": Threshold(1, 0.3),
    "exponential": Exponential(0.8),
    "hinge": Hinge(2.0, 1.0),
    "normalised": Normalised(Polynomial(0.5), 2),
    "rising": lambda tau: 1.0 + 0.1 * tau,
}
PLAIN: dict[str, Callable[[int], float]] = {
    "constant": lambda tau: 1.0,
    "polynomial": lambda tau: 1.0 / math.sqrt(1 + tau),
    "threshold": lambda tau: 1.0 if tau <= 1 else 0.3,
    "exponential": lambda tau: 0.8**tau,
    "hinge": lambda tau: 1.0 if tau <= 1 else 1.0 / (2.0 * (tau - 1) + 1.0),
    "normalised": lambda tau: math.sqrt(3) / math.sqrt(1 + tau),
    "rising": lambda tau: 1.0 + 0.1 * tau,
}


@dataclass(frozen=True)
class Arrival:
    """An update that comes in: what its site adds to whatever it starts from, and how late."""

    movement: F64
    staleness: int
    weight: float


def arrivals(count: int, seed: int) -> list[Arrival]:
    random = np.random.default_rng(seed)
    return [
        Arrival(random.standard_normal(SIZE) * 0.1, int(random.integers(0, 6)), float(weight))
        for weight in random.integers(1, 9, count)
    ]


class Server:
    """Drives a rule through a buffer, as an aggregator does, with one version per step."""

    def __init__(self, rule: AsynchronousAggregation, layout: Layout, start: F64) -> None:
        self.rule, self.layout = rule, layout
        self.models = [blob_of(layout, {"x": start})]
        self.buffer = Buffer(rule.answers(layout), rule.params_type)
        self.state = new_state(layout, rule)

    def receive(self, arrival: Arrival) -> None:
        version = max(0, len(self.models) - 1 - arrival.staleness)
        staleness = len(self.models) - 1 - version
        start = numbers(self.models[version], self.layout)
        sent = arrival.movement + (start if self.rule.params_type == FULL else 0)
        blob, kind = blob_of(self.layout, {"x": sent}), self.rule.params_type
        weight = self.rule.weigh(UpdateInfo("s", arrival.weight, staleness))
        self.buffer.add(blob, weight, kind, staleness=staleness)
        if len(self.buffer) == self.rule.buffer_size:
            self.step()

    def step(self) -> None:
        sums, new, number = self.buffer.swap(), bytearray(), len(self.models)
        apply(
            self.models[-1], self.layout, sums, self.rule, new.extend,
            state=self.state, number=number,
        )  # fmt: skip
        self.buffer.give_back(sums)
        self.models.append(new)


def driven(
    rule: AsynchronousAggregation, incoming: Sequence[Arrival], start: F64, dtype: str
) -> list[F64]:
    layout = flat(SIZE, dtype)
    server = Server(rule, layout, start)
    for arrival in incoming:
        server.receive(arrival)
    return [numbers(model, layout) for model in server.models]


def reference(
    incoming: Sequence[Arrival],
    start: F64,
    *,
    s: Callable[[int], float],
    buffer_size: int = 3,
    reported: bool = False,
    by_weight: bool = False,
    lr: float = 1.0,
    momentum: float = 0.0,
) -> list[F64]:
    """Nguyen et al. 2022, algorithm 1, with SGD with momentum as the server's optimizer."""
    w, buf, k, total, velocity = [start], np.zeros(SIZE), 0, 0.0, np.zeros(SIZE)
    for arrival in incoming:
        tau = min(arrival.staleness, len(w) - 1)
        p = arrival.weight if reported else 1.0
        buf = buf + s(tau) * p * arrival.movement
        k, total = k + 1, total + s(tau) * p
        if k == buffer_size:
            velocity = momentum * velocity + buf / (total if by_weight else k)
            w.append(w[-1] + lr * velocity)
            buf, k, total = np.zeros(SIZE), 0, 0.0
    return w


def apart(ours: Sequence[F64], expected: Sequence[F64]) -> float:
    """The largest relative distance of two models of the same version."""
    assert len(ours) == len(expected) > 1
    return max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(ours, expected, strict=True)
    )


START: F64 = np.random.default_rng(0).standard_normal(SIZE)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("divide_by", ["count", "weight"])
@pytest.mark.parametrize("weights", ["equal", "reported"])
@pytest.mark.parametrize(("dtype", "within"), [("F64", 1e-12), ("F32", 1e-6)])
def test_every_step_is_the_papers(
    name: str, divide_by: str, weights: str, dtype: str, within: float
) -> None:
    incoming = arrivals(24, 1)
    rule = FedBuff(
        buffer_size=3, staleness=FUNCTIONS[name],
        divide_by=divide_by, weights=weights,  # type: ignore[arg-type]
    )  # fmt: skip
    expected = reference(
        incoming, START, s=PLAIN[name],
        reported=weights == "reported", by_weight=divide_by == "weight",
    )  # fmt: skip
    assert len(expected) == 9
    assert apart(driven(rule, incoming, START, dtype), expected) < within


@given(
    seed=st.integers(0, 2**32),
    buffer_size=st.integers(1, 7),
    lr=st.floats(0.1, 2.0),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    name=st.sampled_from(sorted(FUNCTIONS)),
)
@settings(max_examples=40, deadline=None)
def test_buffer_sizes_and_momentum_are_the_papers(
    seed: int, buffer_size: int, lr: float, momentum: float, name: str
) -> None:
    incoming = arrivals(buffer_size * 6, seed)
    rule = FedBuff(buffer_size=buffer_size, staleness=FUNCTIONS[name], optimizer=SGD(lr, momentum))
    expected = reference(
        incoming, START, s=PLAIN[name], buffer_size=buffer_size, lr=lr, momentum=momentum
    )
    assert apart(driven(rule, incoming, START, "F64"), expected) < 1e-11
    assert apart(driven(rule, incoming, START, "F32"), expected) < 1e-6


def test_fadas_falls_back_when_the_buffer_holds_a_late_update() -> None:
    """Wang et al. 2024, algorithms 1 and 2."""
    incoming, threshold = arrivals(30, 4), 2
    rule = FedBuff(
        buffer_size=3, staleness="constant", delay_threshold=threshold,
        optimizer=AMSGrad(0.05, tau=1e-8),
    )  # fmt: skip
    x, m, v, v_hat = [START], np.zeros(SIZE), np.zeros(SIZE), np.zeros(SIZE)
    slowed = 0
    for first in range(0, 30, 3):
        chosen = incoming[first : first + 3]
        delta = sum((arrival.movement for arrival in chosen), np.zeros(SIZE)) / 3
        tau = max(min(arrival.staleness, len(x) - 1) for arrival in chosen)
        m = 0.9 * m + 0.1 * delta
        v = 0.99 * v + 0.01 * delta**2
        v_hat = np.maximum(v_hat, v)
        lr = 0.05 if tau <= threshold else 0.05 * min(1.0, 1.0 / tau)
        slowed += tau > threshold
        x.append(x[-1] + lr * m / (np.sqrt(v_hat) + 1e-8))
    assert 0 < slowed < 10
    assert apart(driven(rule, incoming, START, "F64"), x) < 1e-11
    assert apart(driven(rule, incoming, START, "F32"), x) < 1e-6


def test_all_updates_fresh_and_equal_make_fedavg() -> None:
    layout, random = flat(5000), np.random.default_rng(5)
    old = blob_of(layout, {"x": random.standard_normal(5000)})
    blobs = [blob_of(layout, {"x": random.standard_normal(5000)}) for _ in range(7)]
    rule = FedBuff(buffer_size=7, optimizer=SGD(1.0))
    buffer, new = Buffer(layout), bytearray()
    for blob in blobs:
        buffer.add(blob, rule.weigh(UpdateInfo("s")), DIFF)
    apply(old, layout, buffer.swap(), rule, new.extend)
    updates = [Contribution(f"s{i}", 1.0, DIFF, blob) for i, blob in enumerate(blobs)]
    expected = folded(old, layout, updates, FedAvg())
    assert apart([numbers(new, layout)] * 2, [numbers(expected, layout)] * 2) < 1e-6
    # And so does a synchronous round of the same rule, whichever way sites answer.
    assert apart([numbers(folded(old, layout, updates, rule), layout)] * 2,
                 [numbers(expected, layout)] * 2) < 1e-7  # fmt: skip


@pytest.mark.parametrize("kind", [FULL, DIFF])
def test_a_round_that_is_folded_equals_a_buffer_that_is_stepped(kind: object) -> None:
    layout, random = flat(50, "F64"), np.random.default_rng(6)
    start = random.standard_normal(50)
    old = blob_of(layout, {"x": start})
    moves = [random.standard_normal(50) for _ in range(4)]
    rule = FedBuff(weights="reported", optimizer=Adam())
    buffer, new = Buffer(layout), bytearray()
    updates: list[Contribution] = []
    for number, move in enumerate(moves):
        weight = 1.0 + number
        buffer.add(blob_of(layout, {"x": move}), weight, DIFF)
        sent = move + start if kind == FULL else move
        updates.append(
            Contribution("s", weight, kind, blob_of(layout, {"x": sent}))  # type: ignore[arg-type]
        )
    apply(old, layout, buffer.swap(), rule, new.extend, state=new_state(layout, rule))
    again = folded(old, layout, updates, rule, new_state(layout, rule))
    np.testing.assert_allclose(numbers(new, layout), numbers(again, layout), rtol=1e-12)


def fedasync_reference(
    incoming: Sequence[Arrival], start: F64, *, alpha: float, s: Callable[[int], float]
) -> list[F64]:
    """Xie et al. 2019, algorithm 1."""
    x = [start]
    for arrival in incoming:
        tau = min(arrival.staleness, len(x) - 1)
        x_new = x[len(x) - 1 - tau] + arrival.movement
        a = alpha * s(tau)
        x.append((1 - a) * x[-1] + a * x_new)
    return x


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.0])
@pytest.mark.parametrize(("dtype", "within"), [("F64", 1e-12), ("F32", 1e-6)])
def test_fedasync_is_the_papers(name: str, alpha: float, dtype: str, within: float) -> None:
    incoming = arrivals(12, 7)
    rule = FedAsync(alpha=alpha, staleness=FUNCTIONS[name])
    expected = fedasync_reference(incoming, START, alpha=alpha, s=PLAIN[name])
    assert apart(driven(rule, incoming, START, dtype), expected) < within


def test_fedbuff_of_one_is_fedasync_while_nothing_is_late_and_not_once_something_is() -> None:
    fresh = [Arrival(arrival.movement, 0, 1.0) for arrival in arrivals(8, 8)]
    fedbuff = FedBuff(buffer_size=1, optimizer=SGD(0.6))
    fedasync = FedAsync(alpha=0.6)
    assert (
        apart(driven(fedbuff, fresh, START, "F64"), driven(fedasync, fresh, START, "F64")) < 1e-12
    )
    late = arrivals(8, 8)
    assert apart(driven(fedbuff, late, START, "F64"), driven(fedasync, late, START, "F64")) > 1e-2


def test_fedasync_serves_a_synchronous_round_too() -> None:
    layout = flat(3, "F64")
    old, new = blob_of(layout, {"x": [1.0, 2.0, 3.0]}), blob_of(layout, {"x": [3.0, 2.0, 1.0]})
    rule = FedAsync(alpha=0.25)
    weight = rule.weigh(UpdateInfo("s", 100.0))
    out = folded(old, layout, [Contribution("s", weight, FULL, new)], rule)
    np.testing.assert_array_equal(numbers(out, layout), [1.5, 2.0, 2.5])


def test_what_an_update_weighs() -> None:
    info = UpdateInfo("site-1", 40.0, 3)
    assert FedBuff().weigh(info) == 0.5
    assert FedBuff(weights="reported").weigh(info) == 20.0
    assert FedBuff(weights="reported", aggregation_weights={"site-1": 2.0}).weigh(info) == 40.0
    assert FedBuff(aggregation_weights={"site-1": 2.0}).weigh(info) == 1.0
    assert FedBuff(staleness="constant").weigh(info) == 1.0
    assert FedAsync(alpha=0.6).weigh(info) == 0.3
    assert FedAsync(alpha=0.6, aggregation_weights={"site-1": 0.5}).weigh(info) == 0.15


def test_an_update_of_no_possible_weight_is_refused() -> None:
    bad = UpdateInfo("site-1", math.nan)
    for rule in (FedBuff(), FedBuff(weights="reported"), FedAsync()):
        with pytest.raises(BadUpdate, match="site-1 sent a weight of nan"):
            rule.weigh(bad)  # also where it does not count: metrics are weighed by it
    assert FedBuff().weigh(UpdateInfo("site-1", 7.0)) == 1.0
    with pytest.raises(BadSetting, match="gives -1"):
        FedBuff(staleness=lambda tau: -1.0).weigh(UpdateInfo("site-1"))


@pytest.mark.parametrize("rule", [FedBuff(max_staleness=4), FedAsync(max_staleness=4)])
def test_an_update_beyond_the_limit_is_too_stale(rule: AsynchronousAggregation) -> None:
    assert rule.weigh(UpdateInfo("site-1", 1.0, 4)) > 0
    with pytest.raises(TooStale, match="site-1 is 5 versions late, limit 4") as caught:
        rule.weigh(UpdateInfo("site-1", 1.0, 5))
    assert (caught.value.site, caught.value.staleness, caught.value.limit) == ("site-1", 5, 4)


def test_what_is_divided_by_follows_from_the_weights_unless_it_is_said() -> None:
    assert FedBuff().divide_by == "count"
    assert FedBuff(weights="reported").divide_by == "weight"
    assert FedBuff(weights="reported", divide_by="count").divide_by == "count"


def test_the_factor_for_delay() -> None:
    rule = FedBuff(delay_threshold=2)
    assert [rule.scale(Tally(1, 1.0, tau)) for tau in range(5)] == [1, 1, 1, 1 / 3, 1 / 4]
    assert FedBuff(delay_threshold=0).scale(Tally(1, 1.0, 1)) == 1.0
    assert FedBuff().scale(Tally(1, 1.0, 99)) == 1.0


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: FedBuff(buffer_size=0), "buffer_size"),
        (lambda: FedBuff(max_staleness=-1), "max_staleness"),
        (lambda: FedBuff(delay_threshold=-1), "delay_threshold"),
        (lambda: FedBuff(divide_by="sum"), "divide_by"),  # type: ignore[arg-type]
        (lambda: FedBuff(weights="all"), "weights"),  # type: ignore[arg-type]
        (lambda: FedBuff(staleness="hing"), "staleness"),
        (lambda: FedAsync(alpha=0.0), "alpha"),
        (lambda: FedAsync(alpha=1.1), "alpha"),
        (lambda: FedAsync(alpha=math.nan), "alpha"),
        (lambda: FedAsync(max_staleness=-1), "max_staleness"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], setting: str) -> None:
    with pytest.raises(BadSetting) as caught:
        make()
    assert caught.value.setting == setting
