"""Fixtures of the buffered aggregator's tests; what they give is in `buffered.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from covey.actors.roles import buffering
from covey.algorithms import Buffer

from .buffered import Gate, Trial, try_in


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """Run a test with an aggregator."""
    return partial(try_in, tmp_path)


@pytest.fixture(params=["inline", "in threads"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Updates are added, and versions made, as for a small model and as for a large one."""
    if request.param == "in threads":
        monkeypatch.setattr(buffering, "INLINE_BYTES", 0)
    return str(request.param)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a large model."""
    monkeypatch.setattr(buffering, "INLINE_BYTES", 0)


@pytest.fixture
def making(threads: None, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds up the making of versions."""
    return Gate(monkeypatch, buffering, "apply")


@pytest.fixture
def adding(threads: None, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Holds up the adding of updates."""
    return Gate(monkeypatch, Buffer, "add_all")
