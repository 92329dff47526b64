"""A new folder holds a job under the folder's name, and nothing is ever written over."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from covey.cli.errors import CommandError, ExitCode
from covey.cli.new import TemplateName, make

FILES: dict[TemplateName, set[str]] = {
    "torch": {"README.md", "client.py", "job.py", "model.py"},
    "numpy": {"README.md", "client.py", "job.py", "tumours.csv"},
    "sklearn": {"README.md", "client.py", "job.py"},
}


@pytest.mark.parametrize("template", list(FILES))
def test_a_new_folder_has_the_templates_files_under_its_own_name(
    tmp_path: Path, template: TemplateName, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep" / "tumours-2"
    make(folder, template)
    assert {file.name for file in folder.iterdir()} == FILES[template]
    for file in folder.glob("*.py"):
        ast.parse(file.read_text())
    assert 'name="tumours-2"' in (folder / "job.py").read_text()
    assert "hello" not in "".join(file.read_text() for file in folder.iterdir())
    out = capsys.readouterr().out
    assert f"cd {folder}" in out
    assert "covey run" in out


def test_a_name_that_no_recipe_may_have_is_made_one(tmp_path: Path) -> None:
    make(tmp_path / "my job!", "numpy")
    assert 'name="my-job"' in (tmp_path / "my job!" / "job.py").read_text()


def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    mine = tmp_path / "job.py"
    mine.write_text("mine")
    with pytest.raises(CommandError, match=r"job\.py exists already") as caught:
        make(tmp_path, "numpy")
    assert caught.value.code is ExitCode.USAGE
    assert [file.name for file in tmp_path.iterdir()] == ["job.py"]
    assert mine.read_text() == "mine"


def test_other_files_in_the_folder_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    make(tmp_path, "numpy")
    assert (tmp_path / "job.py").exists()


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="cannot write"):
        make(tmp_path / "file" / "demo", "numpy")


def test_what_a_template_needs_and_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(name: str) -> None:
        del name

    monkeypatch.setattr("importlib.util.find_spec", nothing)
    make(tmp_path / "a", "torch")
    assert "pip install scikit-learn tensorboard" in capsys.readouterr().out
    make(tmp_path / "b", "numpy")
    assert "pip install" not in capsys.readouterr().out
