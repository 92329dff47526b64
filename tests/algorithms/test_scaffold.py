"""SCAFFOLD's server, and models with control variates as blobs and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.algorithms import BadSetting, Contribution, fold
from covey.algorithms.scaffold import ScaffoldAverage
from covey.algorithms.tensors import InitialModel, Packer, ParamsType, load_initial, read_layout
from covey.algorithms.tensors.control import (
    PREFIX,
    has_control,
    join,
    split,
    with_control,
    write_alone,
)


def start() -> dict[str, Any]:
    return {
        "w": np.array([1.0, 2.0, 3.0]),
        "f": np.array([[4.0]], np.float32),
        "n": np.array([10, 20], np.int64),
    }


def folded(
    rule: ScaffoldAverage, initial: InitialModel, updates: list[tuple[float, Mapping[str, Any]]]
) -> dict[str, Any]:
    """The next model with its control variates."""
    packer, out = Packer(initial.layout), bytearray()
    assert initial.state is not None
    contributions = [
        Contribution(f"site-{number}", weight, ParamsType.FULL, packer.pack(state))
        for number, (weight, state) in enumerate(updates)
    ]
    old = packer.pack({name: np.array(value) for name, value in initial.state.items()})
    fold(old, initial.layout, contributions, rule, out.extend)
    return packer.unpack(out)


@pytest.mark.parametrize(("sites", "server_lr"), [(2, 1.0), (8, 0.5)])
def test_parameters_and_control_variates_step_by_shares_of_their_own(
    sites: int, server_lr: float
) -> None:
    initial = with_control(load_initial(start()))
    rule = ScaffoldAverage(server_lr=server_lr)
    rule.begin(sites)
    one = join(
        {name: value + 2 for name, value in start().items()},
        {"w": np.ones(3), "f": np.ones((1, 1), np.float32)},
    )
    two = join(
        {name: value + 5 for name, value in start().items()},
        {"w": np.zeros(3), "f": np.zeros((1, 1), np.float32)},
    )
    params, control = split(folded(rule, initial, [(1.0, one), (3.0, two)]))
    mean, share = (2 + 3 * 5) / 4, 2 / sites
    np.testing.assert_allclose(params["w"], start()["w"] + server_lr * mean)
    np.testing.assert_allclose(params["f"], start()["f"] + server_lr * mean)
    np.testing.assert_allclose(params["n"], np.rint(start()["n"] + mean))  # no step of half a mean
    np.testing.assert_allclose(control["w"], share * 0.25 * np.ones(3))
    np.testing.assert_allclose(control["f"], [[share * 0.25]])


def test_an_update_that_weighs_nothing_is_no_site_that_took_part() -> None:
    initial, rule = with_control(load_initial(start())), ScaffoldAverage()
    rule.begin(4)
    own = join(start(), {"w": np.ones(3), "f": np.ones((1, 1), np.float32)})
    _, control = split(folded(rule, initial, [(2.0, own), (0.0, own)]))
    np.testing.assert_allclose(control["w"], np.full(3, 0.25))


def test_a_server_s_rate_that_cannot_work_is_refused() -> None:
    for rate in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(BadSetting, match="server_lr"):
            ScaffoldAverage(server_lr=rate)


@pytest.mark.parametrize("source", ["state", "file"])
def test_a_model_gets_control_variates_of_zeros_and_is_written_alone_again(
    tmp_path: Path, source: str
) -> None:
    half = start() | {"h": np.ones(3, np.float16), "big": np.ones(100_000), "keep": np.ones(1)}
    initial = load_initial(half)
    alone = tmp_path / "alone"
    with alone.open("wb") as file:
        initial.write(file.fileno())
    if source == "file":
        initial = load_initial(alone)
    extended = with_control(initial, ["keep"])
    assert has_control(extended.layout)
    assert not has_control(initial.layout)
    path, again = tmp_path / "extended", tmp_path / "again"
    with path.open("wb") as file:
        extended.write(file.fileno())
    params, control = split(Packer(read_layout(path)).unpack(bytearray(path.read_bytes())))
    assert set(params) == set(half)
    assert set(control) == {"w", "f", "h", "big"}
    assert control["h"].dtype == np.float32
    assert not any(value.any() for value in control.values())
    assert all(PREFIX + name in extended.layout.by_name for name in control)
    with path.open("rb") as read, again.open("wb") as written:
        write_alone(read.fileno(), written.fileno())
    assert again.read_bytes() == alone.read_bytes()
