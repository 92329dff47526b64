"""`covey report` finds the run that is meant, makes its page, and says where it is."""

from __future__ import annotations

import fcntl
import os
import webbrowser
from pathlib import Path

import pytest

from covey.cli.errors import CommandError, ExitCode
from covey.cli.report import make_report

from .test_runs import make_run


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, id in [("digits", "1-aa"), ("digits", "3-cb"), ("mnist", "2-bb"), ("mnist", "2-bbb")]:
        make_run(tmp_path / "runs", name, id, status="completed")
    make_run(tmp_path / "runs", "digits", "4-dd")
    return tmp_path / "runs"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "folder"),
    [("1-aa", "digits/1-aa"), ("3", "digits/3-cb"), ("2-bb", "mnist/2-bb"), (None, "digits/4-dd")],
)
def test_a_run_is_found_by_its_id_by_how_that_begins_and_as_the_latest(
    workspace: Path, capsys: pytest.CaptureFixture[str], run: str | None, folder: str
) -> None:
    make_report(run, workspace, show=False)
    assert printed(capsys) == f"runs/{folder}/report.html\n"
    assert (workspace / folder / "report.html").is_file()


def test_the_latest_run_is_found_by_its_name(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, latest in (("digits", "digits/4-dd"), ("mnist", "mnist/2-bbb")):
        make_report(name, workspace, show=False)
        assert printed(capsys) == f"runs/{latest}/report.html\n"


def test_names_that_begin_alike_are_all_named(workspace: Path) -> None:
    make_run(workspace, "mnist-wide", "5-ee", status="completed")
    with pytest.raises(CommandError, match="did you mean 'mnist' or 'mnist-wide'"):
        make_report("mni", workspace, show=False)


def test_a_run_is_found_by_its_folder_wherever_that_is(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_report(str(workspace / "digits" / "1-aa"), None, show=False)
    assert printed(capsys) == "runs/digits/1-aa/report.html\n"


def test_runs_are_looked_for_in_the_workspace_of_the_environment(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COVEY_WORKSPACE", str(workspace))
    make_report("1-aa", None, show=False)
    assert printed(capsys) == "runs/digits/1-aa/report.html\n"


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ("9", "there is no run 9 in .*/runs, no runs of that name, and no run's folder"),
        ("9", r"\(there are runs of digits, mnist\); covey runs lists all runs"),
        ("dig", "there is no run dig in .*; did you mean 'digits'"),
        ("minst", "did you mean 'mnist'"),
        ("", "may be any of 5 runs: digits/1-aa"),
        ("2", "'2' may be any of 2 runs: mnist/2-bb, mnist/2-bbb; give more of it"),
        ("../runs", "there is no run"),
    ],
)
def test_a_run_that_is_not_there_or_not_the_only_one_is_an_error(
    workspace: Path, run: str, text: str
) -> None:
    with pytest.raises(CommandError, match=text) as caught:
        make_report(run, workspace, show=False)
    assert caught.value.code is ExitCode.USAGE


def test_a_workspace_without_runs_or_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no folder"):
        make_report(None, tmp_path / "none", show=False)
    with pytest.raises(CommandError, match="no runs in"):
        make_report(None, tmp_path, show=False)


def test_a_report_that_cannot_be_written_is_an_error_that_names_the_file(workspace: Path) -> None:
    (workspace / "digits" / "1-aa" / "report.html").mkdir()
    with pytest.raises(CommandError, match=r"report\.html.*: Is a directory"):
        make_report("1-aa", workspace, show=False)


def test_a_run_that_goes_on_is_called_running_and_one_that_was_cut_off_unfinished(
    workspace: Path,
) -> None:
    folder = workspace / "digits" / "4-dd"
    make_report("4-dd", workspace, show=False)
    assert ">unfinished<" in (folder / "report.html").read_text()
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    make_report("4-dd", workspace, show=False)
    os.close(lock)
    assert ">running<" in (folder / "report.html").read_text()


def test_open_shows_it_in_a_browser_and_says_so_where_there_is_none(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_it(url: str) -> bool:
        opened.append(url)
        return len(opened) == 1

    monkeypatch.setattr(webbrowser, "open", open_it)
    page = (workspace / "digits" / "1-aa" / "report.html").as_uri()
    make_report("1-aa", workspace, show=True)
    with pytest.raises(CommandError, match="no browser can be started here") as caught:
        make_report("1-aa", workspace, show=True)
    assert opened == [page, page]
    assert caught.value.code is ExitCode.FAILED
    assert printed(capsys) == 2 * "runs/digits/1-aa/report.html\n"
