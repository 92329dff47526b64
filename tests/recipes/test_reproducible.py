"""The same seed gives the same bytes, and round 0 gets the given weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.algorithms.tensors import load_initial
from covey.recipes import Run, TrainContext
from covey.transport import Codec
from tests.recipes.conftest import digest_of

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

TORCH = """
import torch
import covey.client as flare

flare.init()
net = torch.nn.Linear(3, 2)
while flare.is_running():
    model = flare.receive()
    net.load_state_dict(model.params)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.dropout(net(torch.randn(4, 3)), 0.5).square().sum().backward()
        optimizer.step()
    flare.send(flare.FLModel(params=net.state_dict(), metrics={"loss": 1.0}))
"""


def test_numpy_scripts_give_the_same_bytes_however_they_run(lab: Lab) -> None:
    lab.client()
    digests = {
        (isolation, threads, again): digest_of(
            lab.recipe().execute(lab.env(4, isolation=isolation, num_threads=threads))
        )
        for isolation, threads, again in (
            ("process", 1, 0),
            ("process", 2, 0),
            ("process", 2, 1),
            ("process", 4, 0),
            ("inline", 2, 0),
            ("inline", 2, 1),
        )
    }
    assert len(set(digests.values())) == 1, digests
    assert digest_of(lab.recipe().execute(lab.env(4, seed=6))) not in digests.values()
    lab.check_no_process_left()


def test_torch_scripts_give_the_same_bytes_however_they_run(lab: Lab) -> None:
    import torch

    lab.client(text=TORCH)
    model = torch.nn.Linear(3, 2)
    digests = {
        (isolation, threads): digest_of(
            lab.recipe(initial_model=model, num_rounds=2).execute(
                lab.env(4, isolation=isolation, num_threads=threads)
            )
        )
        for isolation, threads in (("process", 1), ("process", 2), ("process", 4), ("inline", 1))
    }
    assert len(set(digests.values())) == 1, digests


def test_functions_give_the_same_bytes_at_any_number_of_threads(lab: Lab) -> None:
    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        return {name: value + ctx.rng.standard_normal() for name, value in params.items()}

    digests = {
        digest_of(lab.recipe(train=train).execute(lab.env(9, num_threads=threads, **more)))
        for threads, more in ((1, {}), (4, {}), (2, {"check_codec": True}))
    }
    assert len(digests) == 1


def test_a_checked_codec_encodes_links_and_local_messages(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: set[str] = set()
    encode = Codec.encode

    def counting(self: Codec, message: Any) -> Any:
        encoded.add(type(message.message).__name__)
        return encode(self, message)

    def train(params: dict[str, Any], ctx: TrainContext) -> dict[str, Any]:
        del ctx
        return params

    monkeypatch.setattr(Codec, "encode", counting)
    lab.recipe(train=train).execute(lab.env(2))
    assert not encoded
    lab.recipe(train=train).execute(lab.env(2, check_codec=True))
    assert {"Assign", "Submit"} <= encoded  # between systems
    assert {"Begin", "Contribute", "Stepped"} <= encoded  # within the server's


# What round 0 receives, and what comes of it ------------------------------------


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    odd = np.array([np.pi, -0.0, 5e-324, 1e300], np.float64)
    return {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "half": rng.standard_normal(7).astype(np.float16),
        "odd": odd,
        "count": np.array([2**50 + 1, -3], np.int64),
        "mask": np.array([True, False]),
        "scalar": np.float32(1.1),
    }


SAVING = """
    if round == 0:
        np.savez(FOLDER / f"{site}.npz", **model.params)
    params = {name: value for name, value in model.params.items()}
"""


@pytest.mark.parametrize("isolation", ["process", "inline"])
def test_round_0_gets_the_given_weights_bit_for_bit(lab: Lab, isolation: str) -> None:
    lab.client(SAVING)
    run = lab.recipe(initial_model=weights()).execute(lab.env(2, isolation=isolation))
    with np.load(lab.folder / "site-1.npz") as received:
        assert_same(weights(), received)
    assert_same(weights(), run.model())  # identity training changes nothing


def assert_same(expected: Mapping[str, Any], got: Mapping[str, Any]) -> None:
    assert set(expected) == set(got)
    for name, value in expected.items():
        assert np.asarray(got[name]).dtype == np.asarray(value).dtype
        assert np.asarray(got[name]).tobytes() == np.asarray(value).tobytes(), name


STEP = """
    step = {"site-1": 0.1, "site-2": 0.7, "site-3": -2.0}[site]
    changed = {name: value + np.asarray(step, value.dtype) for name, value in model.params.items()}
    params = {
        name: value - model.params[name] if @ else value for name, value in changed.items()
    }
    kind = flare.ParamsType.DIFF if @ else flare.ParamsType.FULL
"""


@pytest.mark.parametrize("diff", [False, True])
def test_the_aggregate_is_the_weighted_mean_within_one_rounding(lab: Lab, diff: bool) -> None:
    # Sites report weights 1, 2 and 3; the recipe triples that of the first, drops "keep".
    lab.client(STEP.replace("@", str(diff)))
    start: dict[str, Any] = {
        "w": np.array([0.1, 2.5, -7.0], np.float32),
        "keep": np.array([4.0], np.float64),
    }
    run = lab.recipe(
        initial_model=start,
        num_rounds=1,
        exclude_vars=["keep"],
        aggregation_weights={"site-1": 3.0},
    ).execute(lab.env())
    steps = np.array([0.1, 0.7, -2.0], np.float32)
    if diff:
        deltas = [((start["w"] + s) - start["w"]).astype(np.float64) for s in steps]
        models = [start["w"].astype(np.float64) + delta for delta in deltas]
    else:
        models = [(start["w"] + s).astype(np.float64) for s in steps]
    factors = np.array([3.0, 2.0, 3.0])
    oracle = sum(f * m for f, m in zip(factors, models, strict=True)) / factors.sum()
    got = run.model()
    np.testing.assert_array_max_ulp(got["w"], np.asarray(oracle, np.float32), 1)
    assert got["keep"].tobytes() == start["keep"].tobytes()


def test_a_model_file_is_sent_as_it_is(lab: Lab) -> None:
    path = lab.folder / "start.safetensors"
    with path.open("wb") as file:
        load_initial({"w": np.array([1.5, 2.5], np.float32)}).write(file.fileno())
    lab.client(SAVING)
    run: Run = lab.recipe(initial_model=path).execute(lab.env(1))
    assert run.model()["w"].tolist() == [1.5, 2.5]
