"""A peer's environment is made once, and made again when what it shall hold changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peers import environments


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be run; nothing is."""
    ran: list[list[str]] = []

    def note(command: list[str]) -> None:
        ran.append(command)
        (tmp_path / "pfl").mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments, "_run", note)
    return ran


def test_an_environment_is_made_once(commands: list[list[str]], tmp_path: Path) -> None:
    python = environments.prepare("pfl")
    assert python == tmp_path / "pfl" / "bin" / "python"
    make, install = commands
    assert make == [sys.executable, "-m", "venv", str(tmp_path / "pfl")]
    assert "pfl[pytorch]==0.6.0" in install
    assert str(environments.CONSTRAINTS) in install
    assert environments.prepare("pfl") == python
    assert len(commands) == 2


def test_an_environment_that_shall_hold_something_else_is_made_again(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    environments.prepare("pfl")
    monkeypatch.setattr(environments, "REQUIREMENTS", {"pfl": "pfl==0.7.0"})
    environments.prepare("pfl")
    assert "pfl==0.7.0" in commands[3]


def test_an_environment_that_could_not_be_filled_is_made_again(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str]) -> None:
        raise environments.CannotInstall("no network")

    with monkeypatch.context() as patched:
        patched.setattr(environments, "_run", fail)
        with pytest.raises(environments.CannotInstall):
            environments.prepare("pfl")
    environments.prepare("pfl")
    assert len(commands) == 2
