"""SCAFFOLD's client: its arithmetic on both kinds of arrays, its mistakes, and what it keeps."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.client import BadModel, FLModel, NotInRun, Scaffold, WrongCall
from covey.client.state import ClientState

C = {"w": np.array([0.5, -0.5])}


def received(round: int, kind: str = "numpy", **params: Any) -> FLModel:
    """A model with control variates; a variable that is excluded has none."""
    own: dict[str, Any] = {"w": np.array([1.0, 2.0]), "kept": np.array([3.0])} | params
    control: dict[str, Any] = dict(C)
    if kind == "torch":
        torch: Any = importlib.import_module("torch")
        own = {name: torch.from_numpy(value.copy()) for name, value in own.items()}
        control = {name: torch.from_numpy(value.copy()) for name, value in control.items()}
    return FLModel(params=own, control=control, current_round=round)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_two_rounds_follow_the_paper(tmp_path: Path, kind: str) -> None:
    state, own = ClientState(tmp_path), np.zeros(2)
    for round in range(2):
        model = received(round, kind)
        params: Any = model.params
        scaffold = Scaffold(model, state)
        gradients: Any = {"w": params["w"] * 0 + 1, "kept": params["kept"] * 0 + 1}
        for _ in range(2):
            step = {name: value * 1.0 for name, value in gradients.items()}
            scaffold.correct_gradients(step)
            np.testing.assert_allclose(step["w"], 1 - own + C["w"])
            assert float(step["kept"][0]) == 1
            params["w"] -= 0.1 * step["w"]
        answer = scaffold.update(params, lr=0.1, metrics={"loss": 1.0}, meta={"n": 2})
        drift = (np.array([1.0, 2.0]) - np.asarray(params["w"])) / 0.2
        assert answer.control is not None
        assert answer.params is params
        assert (answer.metrics, answer.meta) == ({"loss": 1.0}, {"n": 2})
        np.testing.assert_allclose(answer.control["w"], drift)
        own = own - C["w"] + drift


def test_a_module_s_gradients_are_corrected_where_there_are_any(tmp_path: Path) -> None:
    torch: Any = importlib.import_module("torch")
    net: Any = torch.nn.Linear(1, 1, dtype=torch.float64)
    params = {name: value.clone() for name, value in net.state_dict().items()}
    control = {name: torch.full_like(value, 2.0) for name, value in params.items()}
    scaffold = Scaffold(FLModel(params=params, control=control), ClientState(tmp_path))
    net.weight.grad = torch.ones_like(net.weight)
    scaffold.correct_gradients(net)
    assert net.weight.grad.item() == 3.0
    assert net.bias.grad is None


def test_mistakes_are_told(tmp_path: Path) -> None:
    state = ClientState(tmp_path)
    with pytest.raises(BadModel, match="ScaffoldRecipe"):
        Scaffold(FLModel(params={"w": np.zeros(2)}), state)
    with pytest.raises(NotInRun):
        Scaffold(received(0))
    with pytest.raises(WrongCall, match="keeps nothing"):
        Scaffold(received(0), ClientState(None))
    scaffold = Scaffold(received(0), state)
    with pytest.raises(WrongCall, match="no step"):
        scaffold.update({"w": np.zeros(2)}, lr=0.1)
    with pytest.raises(BadModel, match=r"module\.w"):
        scaffold.correct_gradients({"module.w": np.zeros(2)})
    scaffold.correct_gradients({"w": np.zeros(2)})
    with pytest.raises(WrongCall, match="lr"):
        scaffold.update({"w": np.zeros(2)}, lr=0.0)
    with pytest.raises(BadModel, match="'w'"):
        scaffold.update({}, lr=0.1)
    assert not list(tmp_path.iterdir())


def test_a_round_reads_what_the_rounds_before_it_left_and_nothing_later(tmp_path: Path) -> None:
    state = ClientState(tmp_path / "site")
    assert state.load(0) is None
    for round in (0, 2, 5):
        state.save(round, {"w": np.full(2, float(round))})
    loaded = state.load(5)
    assert loaded is not None
    assert loaded["w"].tolist() == [2.0, 2.0]
    loaded["w"][:] = 9  # a copy of its own
    again = ClientState(tmp_path / "site").load(6)
    assert again is not None
    assert again["w"].tolist() == [2.0, 2.0]  # round 5 is done again: its own file is gone
    state.save(6, {"w": np.full(2, 6.0)})
    state.save(6, {"w": np.full(2, 7.0)})
    last = state.load(7)
    assert last is not None
    assert last["w"].tolist() == [7.0, 7.0]
    assert len(list((tmp_path / "site").iterdir())) == 1
