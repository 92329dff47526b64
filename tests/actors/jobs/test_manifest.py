"""Manifests: two runs of the same thing have one digest, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey.actors.jobs.manifest import JobManifest, digest_of_file, digest_of_text
from covey.algorithms.tensors import load_initial
from covey.recipes import FedAvgRecipe

BASE = JobManifest(
    "FedAvgRecipe", "job", ("site-1", "site-2"), {"b": 1, "a": [1, 2]}, "m", {"x.py": "1"}
)


def test_the_order_of_keys_does_not_count() -> None:
    assert replace(BASE, settings={"a": [1, 2], "b": 1}).digest == BASE.digest


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": "Other"},
        {"name": "job2"},
        {"sites": ("site-2", "site-1")},
        {"settings": {"b": 1, "a": [1, 3]}},
        {"model": "n"},
        {"code": {"x.py": "2"}},
        {"code": {"x.py": "1", "y.py": "1"}},
    ],
)
def test_everything_else_does(change: dict[str, Any]) -> None:
    assert replace(BASE, **change).digest != BASE.digest


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "")):
        (tmp_path / name).write_text(text)
    assert digest_of_file(tmp_path / "a") == digest_of_file(tmp_path / "b") == digest_of_text("x")
    assert digest_of_file(tmp_path / "c") == digest_of_text("")


def digest(script: Path, **settings: Any) -> str:
    given: dict[str, Any] = {"initial_model": {"w": np.zeros(2)}, "train_script": script}
    return FedAvgRecipe(**(given | settings)).manifest(["site-1"]).digest


def test_files_of_one_name_in_two_folders_both_count(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    script = tmp_path / "client.py"
    script.write_text("import a\nimport b\n")
    before = digest(script)
    (tmp_path / "a" / "__init__.py").write_text("X = 1\n")
    after = digest(script)
    assert after != before
    (tmp_path / "a" / "__init__.py").write_text("")
    (tmp_path / "b" / "__init__.py").write_text("X = 1\n")
    assert len({before, after, digest(script)}) == 3


def test_weights_made_anew_are_the_same_job_and_a_file_of_others_is_not(tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text("")
    assert digest(script) == digest(script, initial_model={"w": np.ones(2)})
    digests: set[str] = set()
    for value in (0.0, 1.0):
        with (tmp_path / "m.safetensors").open("wb") as file:
            load_initial({"w": np.full(2, value)}).write(file.fileno())
        digests.add(digest(script, initial_model=tmp_path / "m.safetensors"))
    assert len(digests) == 2


def test_a_function_counts_by_its_source_and_what_is_bound_to_it() -> None:
    def train(params: Any, ctx: Any, rate: float = 0.0) -> Any:
        del ctx, rate
        return params

    functions: list[Callable[..., Any]] = [
        train,
        partial(train, rate=1.0),
        partial(train, rate=2.0),
    ]
    digests = [
        FedAvgRecipe(initial_model={"w": np.zeros(2)}, train=function).manifest(()).digest
        for function in functions
    ]
    assert len(set(digests)) == 3
