"""Settings that cannot work are refused when they are given, with what to do about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from covey.recipes import (
    ConfigError,
    FedAvgRecipe,
    SimEnv,
    TrainContext,
    add_experiment_tracking,
    batched,
)

if TYPE_CHECKING:
    from tests.recipes.conftest import Lab

RECIPES: list[tuple[dict[str, Any], str, str]] = [
    ({"num_round": 3}, "num_round", "did you mean 'num_rounds'?"),
    ({"name": "a/b"}, "name", "use letters"),
    ({"num_rounds": 0}, "num_rounds", "at least 1"),
    ({"num_rounds": 2.5}, "num_rounds", "whole number"),
    ({"min_clients": True}, "min_clients", "whole number"),
    ({"initial_model": None}, "initial_model", "give a module"),
    ({"initial_model": "nowhere.safetensors"}, "initial_model", "no such file"),
    ({"initial_model": {"w": object()}}, "initial_model", "'w'"),
    ({"model": {"w": np.zeros(1)}}, "model", "another name of initial_model"),
    ({"train_script": "cleint.py"}, "train_script", "did you mean 'client.py'?"),
    ({"train_script": None}, "train_script", "either"),
    ({"train": len}, "train_script", "either"),
    ({"train_script": None, "train": "client.py"}, "train", "goes to train_script="),
    ({"evaluate": len}, "evaluate", "goes with train="),
    ({"train_args": "--name 'open"}, "train_args", "No closing quotation"),
    ({"task_timeout": 0}, "task_timeout", "above 0"),
    ({"task_timeout": "10"}, "task_timeout", "above 0"),
    ({"key_metric": 7}, "key_metric", "no text"),
    ({"key_metric_mode": "maximum"}, "key_metric_mode", "'min', 'max'"),
    ({"stop_cond": "accuracy > high"}, "stop_cond", "not a number"),
    ({"patience": 0}, "patience", "at least 1"),
    ({"exclude_vars": "w"}, "exclude_vars", "list of names"),
    ({"exclude_vars": ["ww"]}, "exclude_vars", "did you mean 'w'?"),
    ({"exclude_vars": ["w", "b"]}, "exclude_vars", "leaves nothing"),
    ({"aggregation_weights": {"site-1": -1.0}}, "aggregation_weights", ">= 0"),
    ({"aggregation_weights": {"site-1": "2"}}, "aggregation_weights", "no number"),
]


@pytest.mark.parametrize(("settings", "setting", "text"), RECIPES)
def test_a_recipe_refuses_what_cannot_work(
    lab: Lab, settings: dict[str, Any], setting: str, text: str
) -> None:
    lab.client()
    given: dict[str, Any] = {"name": "job", "initial_model": {"w": np.zeros(2), "b": np.ones(1)}}
    if "train_script" not in settings:
        settings = settings | {"train_script": lab.folder / "client.py"}
    elif settings["train_script"]:
        settings = settings | {"train_script": lab.folder / settings["train_script"]}
    with pytest.raises(ConfigError) as caught:
        FedAvgRecipe(**(given | settings))
    assert caught.value.setting == setting
    assert text in str(caught.value)


ENVIRONMENTS: list[tuple[dict[str, Any], str, str]] = [
    ({"num_threds": 2}, "num_threds", "did you mean 'num_threads'?"),
    ({"num_clients": 0}, "num_clients", "at least 1"),
    ({"num_threads": 0}, "num_threads", "at least 1"),
    ({"clients": []}, "clients", "different names"),
    ({"clients": ["a", "a"]}, "clients", "different names"),
    ({"clients": "abc"}, "clients", "different names"),
    ({"clients": ["a", "../b"]}, "clients", "'../b'"),
    ({"clients": ["server"]}, "clients", "taken"),
    ({"seed": "7"}, "seed", "whole number"),
    ({"seed": 2**63}, "seed", "less than 2**63"),
    ({"isolation": "proces"}, "isolation", "did you mean 'process'?"),
    ({"max_processes": 0}, "max_processes", "at least 1"),
]


@pytest.mark.parametrize(("settings", "setting", "text"), ENVIRONMENTS)
def test_an_environment_refuses_what_cannot_work(
    settings: dict[str, Any], setting: str, text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        SimEnv(**settings)
    assert caught.value.setting == setting
    assert text in str(caught.value)


def test_recipe_and_environment_must_fit(lab: Lab) -> None:
    lab.client()
    with pytest.raises(ConfigError, match="min_clients: 4, but there are 3 clients"):
        lab.recipe(min_clients=4).execute(lab.env())
    with pytest.raises(ConfigError, match="did you mean 'site-1'"):
        lab.recipe(aggregation_weights={"site1": 2.0}).execute(lab.env())
    with pytest.raises(ConfigError) as caught:
        lab.recipe().execute(lab.env(9, max_processes=8))
    for part in ("train=", "max_processes=8", "restart_scripts=True"):
        assert part in str(caught.value)
    assert not lab.folders()


def test_a_workspace_that_cannot_be_written_is_told(lab: Lab) -> None:
    lab.client()
    (lab.folder / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"workspace: .*runs"):
        lab.recipe().execute(lab.env())


def test_a_script_is_found_beside_the_file_that_names_it() -> None:
    recipe = FedAvgRecipe(
        name="job", initial_model={"w": np.zeros(1)}, train_script=Path(__file__).name
    )
    assert recipe.train_script == Path(__file__).resolve()


def test_a_copy_with_other_settings_leaves_the_first_alone(lab: Lab) -> None:
    lab.client()
    recipe = lab.recipe()
    other = recipe.replace(num_rounds=9, name="other")
    assert (other.num_rounds, other.name, recipe.num_rounds, recipe.name) == (9, "other", 3, "job")
    for settings, text in (
        ({"num_rounds": 0}, "at least 1"),
        ({"num_round": 1}, "did you mean 'num_rounds'"),
        ({"execute": 1}, "no such setting"),
        ({"exclude_vars": ("v",)}, "no variable 'v'"),
    ):
        with pytest.raises(ConfigError, match=text):
            recipe.replace(**settings)


def test_a_copy_of_an_environment_is_checked_as_the_first_was() -> None:
    env = SimEnv(clients=["a", "b"], num_threads=3, verbose=True)
    other = env.replace(seed=4)
    assert (other.sites, other.num_threads, other.verbose, other.seed) == (("a", "b"), 3, True, 4)
    assert env.seed is None
    assert env.replace(num_clients=1).sites == ("site-1",)
    assert env.replace(clients=["c"]).sites == ("c",)
    for settings, setting, text in ENVIRONMENTS:
        with pytest.raises(ConfigError) as caught:
            env.replace(**settings)
        assert caught.value.setting == setting
        assert text in str(caught.value)


def test_a_refused_model_file_is_told_without_its_cause(lab: Lab) -> None:
    lab.client()
    (lab.folder / "model.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError) as caught:
        lab.recipe(initial_model=lab.folder / "model.pkl")
    assert caught.value.__suppress_context__


def test_tracking_is_checked_when_it_is_added(lab: Lab) -> None:
    lab.client()
    recipe = lab.recipe()
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        add_experiment_tracking(recipe, "tensorbord")
    add_experiment_tracking(recipe)
    add_experiment_tracking(recipe)
    assert recipe.tracking == ("tensorboard",)


# Export ------------------------------------------------------------------------


def test_an_exported_job_is_whole(lab: Lab) -> None:
    from covey.algorithms.tensors import load_initial

    (lab.folder / "parts").mkdir()
    (lab.folder / "parts" / "__init__.py").write_text("")
    (lab.folder / "parts" / "net.py").write_text("SIZE = 3\n")
    lab.client(text="import numpy\nfrom parts.net import SIZE\n")
    target = lab.recipe(num_rounds=7).export(lab.folder / "out", ["site-1", "site-2"])
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["entry"] == "client.py"
    assert manifest["sites"] == ["site-1", "site-2"]
    assert manifest["settings"]["num_rounds"] == 7
    assert set(manifest["code"]) == {"client.py", "parts/__init__.py", "parts/net.py"}
    for name in manifest["code"]:
        assert (target / "code" / name).read_bytes() == (lab.folder / name).read_bytes()
    model = load_initial(target / "model.safetensors")
    assert model.layout == lab.recipe().initial.layout


def test_what_cannot_be_exported_is_told(lab: Lab) -> None:
    lab.client()
    (lab.folder / "file").write_text("")
    for folder in (lab.folder, lab.folder / "file"):
        with pytest.raises(ConfigError, match="folder"):
            lab.recipe().export(folder)
    with pytest.raises(ConfigError, match="by function"):
        lab.recipe(train=dict).export(lab.folder / "out")


def scaled(params: dict[str, Any], ctx: TrainContext, *options: Any, **more: Any) -> object:
    """A function that gets its settings by `functools.partial`."""
    del ctx, options, more
    return params


def digest_with(*options: Any, decorate: Callable[[Any], Any] = lambda train: train) -> str:
    """The manifest's digest of a function with options; all that has an address is made anew."""

    def half(step: int) -> float:
        return 0.5**step

    class Loss:
        """An object whose text is its address."""

    given = partial(scaled, *options, schedule=half, of={"loss": [Loss(), partial(half, 3)]})
    recipe = FedAvgRecipe(initial_model={"w": np.zeros(1)}, train=decorate(given))
    return recipe.manifest(["site-1"]).digest


def test_a_function_with_arguments_is_the_same_where_their_addresses_are_others() -> None:
    assert digest_with(0.1) == digest_with(0.1)
    assert digest_with(0.1) != digest_with(0.2)
    assert digest_with({3: "a", "b": print}) == digest_with({"b": print, 3: "a"})
    assert digest_with({3: "a", "b": print}) != digest_with({"b": repr, 3: "a"})
    assert digest_with({"b", "a", "c"}) == digest_with({"c", "b", "a"})
    assert digest_with({"b", "a", "c"}) != digest_with({"c", "b"})


def test_arguments_of_a_batched_function_count_too() -> None:
    assert digest_with(0.1, decorate=batched) == digest_with(0.1, decorate=batched)
    assert digest_with(0.1, decorate=batched) != digest_with(0.2, decorate=batched)
