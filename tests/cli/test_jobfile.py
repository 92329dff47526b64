"""A job file is understood before it is run, and its errors are told with its own line last."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from covey.cli.errors import CommandError, ExitCode
from covey.cli.jobfile import load, look


@pytest.fixture(autouse=True)
def same_interpreter_afterwards() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("covey", "numpy", "torch", "msgpack")):
            del sys.modules[name]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return tmp_path / "job.py"


@pytest.mark.parametrize(
    "source",
    [
        'recipe = Recipe(train_script="client.py")',
        'SCRIPT = "client.py"\nrecipe = Recipe(train_script=SCRIPT)',
        'def build():\n    return Recipe(train_script="client.py")\nrecipe = build()',
        'if x:\n    recipe = Recipe(train_script="client.py")',
    ],
)
def test_the_client_script_is_found_without_running_anything(job: Path, source: str) -> None:
    job.write_text(source)
    (job.parent / "client.py").touch()
    assert look(job).scripts == (job.parent / "client.py",)


def test_a_script_beside_the_job_file_comes_before_one_in_the_current_folder(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    job.write_text('recipe = Recipe(train_script="client.py")')
    (here / "client.py").touch()
    assert look(job).scripts == (here / "client.py",)
    (tmp_path / "client.py").touch()
    assert look(job).scripts == (tmp_path / "client.py",)


@pytest.mark.parametrize(
    "source",
    [
        "recipe = Recipe(train=function)",
        "recipe = Recipe(train_script=find())",
        'recipe = Recipe(train_script="gone.py")',
        "from elsewhere import recipe",
        "import recipes as recipe",
        "from elsewhere import *",
    ],
)
def test_a_script_that_cannot_be_known_is_none(job: Path, source: str) -> None:
    job.write_text(source)
    assert look(job).scripts == ()


def test_a_file_without_a_recipe_is_refused(job: Path) -> None:
    job.write_text("def f():\n    recipe = 1\n")
    with pytest.raises(CommandError, match="has no `recipe`") as caught:
        look(job)
    assert caught.value.code is ExitCode.USAGE


def test_a_missing_file_says_how_to_begin(job: Path) -> None:
    with pytest.raises(CommandError, match="covey new DIR"):
        look(job)


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot read"):
        look(tmp_path)


def test_a_syntax_error_names_its_line(job: Path) -> None:
    job.write_text("recipe = 1\nrecipe = = 2\n")
    with pytest.raises(CommandError, match=r"job\.py, line 2: invalid syntax$"):
        look(job)


@pytest.mark.parametrize("call", ["execute(env)", "submit(env)"])
def test_a_file_that_runs_its_recipe_when_imported_is_refused(job: Path, call: str) -> None:
    job.write_text(f"recipe = 1\nrun = recipe.{call}\n")
    with pytest.raises(CommandError, match="line 2 runs the recipe itself"):
        look(job)


@pytest.mark.parametrize(
    "source",
    [
        'recipe = 1\nif __name__ == "__main__":\n    recipe.execute(env)\n',
        "recipe = 1\ndef main():\n    recipe.execute(env)\n",
    ],
)
def test_a_run_for_python_alone_is_no_obstacle(job: Path, source: str) -> None:
    job.write_text(source)
    look(job)


def test_a_job_file_is_imported_with_its_folder_first_and_never_as_main(job: Path) -> None:
    (job.parent / "beside_the_job.py").write_text("value = 3")
    job.write_text(
        "import sys\n"
        "from beside_the_job import value\n"
        "recipe = (value, __name__, sys.argv, sys.path[0])\n"
    )
    argv = list(sys.argv)
    module = load(look(job))
    assert module.recipe == (3, "job", [str(job)], str(job.parent))
    assert sys.argv == argv


def test_a_file_named_like_a_loaded_module_is_no_trouble(tmp_path: Path) -> None:
    job = tmp_path / "typing.py"
    job.write_text("recipe = __name__")
    assert load(look(job)).recipe == "typing_job"
    sys.path.remove(str(tmp_path))


def test_an_error_of_the_file_ends_with_its_own_line_and_shows_no_frame_of_ours(job: Path) -> None:
    (job.parent / "deeper.py").write_text("def fail():\n    return {}['x']\n")
    job.write_text("import deeper\nrecipe = deeper.fail()\n")
    with pytest.raises(CommandError) as caught:
        load(look(job))
    lines = str(caught.value).splitlines()
    assert lines[0] == "job.py raised:"
    assert [line for line in lines if line.startswith("  File")] == [
        f'  File "{job}", line 2, in <module>',
        f'  File "{job.parent / "deeper.py"}", line 2, in fail',
    ]
    assert lines[-1] == "KeyError: 'x'"


def test_a_configuration_error_names_the_setting_and_the_files_line(job: Path) -> None:
    job.write_text(
        "from covey.recipes import FedAvgRecipe\n"
        "recipe = FedAvgRecipe(initial_model={}, train_skript='client.py')\n"
    )
    with pytest.raises(CommandError) as caught:
        load(look(job))
    lines = str(caught.value).splitlines()
    assert "did you mean 'train_script'?" in lines[0]
    assert lines[1] == f'  File "{job}", line 2, in <module>'


def test_a_file_that_ends_the_process_is_an_error_not_an_end(job: Path) -> None:
    job.write_text("recipe = 1\nraise SystemExit(0)\n")
    with pytest.raises(CommandError, match="ended itself when imported"):
        load(look(job))
