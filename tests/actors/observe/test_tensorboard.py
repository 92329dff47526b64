"""Curves come back out of TensorBoard's own reader with the right values and steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from covey.actors.observe import tensorboard
from covey.actors.observe.errors import TrackingUnavailable
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.tensorboard import TensorBoardTracker

# TensorBoard's modules carry no types.
accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def streamed(
    site: str, key: str, value: object, step: int | None, kind: str = "scalar"
) -> RunEvent:
    data = {"key": key, "value": value, "step": step, "type": kind}
    return RunEvent(EventKind.METRIC, 0, site, data)


def site_finished(round_: int, site: str, **metrics: float) -> RunEvent:
    return RunEvent(EventKind.SITE_FINISHED, round_, site, {"task": "train", "metrics": metrics})


def round_finished(round_: int, **metrics: float) -> RunEvent:
    return RunEvent(EventKind.ROUND_FINISHED, round_, None, {"task": "train", "metrics": metrics})


def read(folder: Path) -> Any:
    reader = accumulator.EventAccumulator(str(folder))
    reader.Reload()
    return reader


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 6)) for event in read(folder).Scalars(tag)]


def test_streamed_metrics_have_the_scripts_own_step_and_round_metrics_the_round(
    tmp_path: Path,
) -> None:
    track = TensorBoardTracker(tmp_path)
    for round_ in range(2):
        for site in ("site-1", "site-2"):
            for batch in range(3):
                step = round_ * 30 + batch * 10
                track(streamed(site, "train_loss", 1 / (step + 1), step))
            track(site_finished(round_, site, accuracy=0.5 + round_ / 4))
        track(round_finished(round_, accuracy=0.25 + round_ / 4))
    for site in ("site-1", "site-2"):
        expected = [(step, round(1 / (step + 1), 6)) for step in (0, 10, 20, 30, 40, 50)]
        assert curve(tmp_path / site, "train_loss") == expected
        assert curve(tmp_path / site, "accuracy") == [(0, 0.5), (1, 0.75)]
    assert curve(tmp_path / "global", "accuracy") == [(0, 0.25), (1, 0.5)]
    assert sorted(os.listdir(tmp_path)) == ["global", "site-1", "site-2"]


def test_a_curve_without_steps_counts_its_values(tmp_path: Path) -> None:
    track = TensorBoardTracker(tmp_path)
    for value in (3, 2, 1):
        track(streamed("site-1", "loss", value, None))
    track.close()
    assert curve(tmp_path / "site-1", "loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_two_kinds_of_steps_never_share_a_curve(tmp_path: Path) -> None:
    track = TensorBoardTracker(tmp_path)
    track(streamed("site-1", "loss", 1.0, 700))
    track(site_finished(4, "site-1", loss=2.0))
    track.close()
    assert curve(tmp_path / "site-1", "loss") == [(700, 1.0)]
    assert curve(tmp_path / "site-1", "round/loss") == [(4, 2.0)]


def test_text_is_kept_as_text(tmp_path: Path) -> None:
    track = TensorBoardTracker(tmp_path)
    track(streamed("site-1", "note", "grüße", 5, "text"))
    track(streamed("site-1", "lr", 0.1, None, "parameter"))
    track.close()
    reader = read(tmp_path / "site-1")
    (event,) = reader.Tensors("note")
    assert (event.step, event.tensor_proto.string_val[0].decode()) == (5, "grüße")
    assert reader.SummaryMetadata("note").plugin_data.plugin_name == "text"
    assert reader.Tensors("lr")[0].tensor_proto.string_val[0] == b"0.1"


def test_a_resumed_run_continues_its_curves(tmp_path: Path) -> None:
    for rounds in (range(2), range(2, 4)):
        track = TensorBoardTracker(tmp_path)
        for round_ in rounds:
            track(round_finished(round_, accuracy=round_ / 4))
    assert curve(tmp_path / "global", "accuracy") == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]


def test_more_sites_than_open_files_are_no_trouble(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    track = TensorBoardTracker(tmp_path)
    for number in range(50):
        track(site_finished(0, f"site-{number}", loss=1.0))
    track(round_finished(0, loss=1.0))
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(os.listdir(tmp_path)) == 51


def test_a_missing_package_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(tensorboard, "_load", missing)
    with pytest.raises(TrackingUnavailable, match="pip install tensorboard"):
        TensorBoardTracker(tmp_path)
    with pytest.raises(TrackingUnavailable) as caught:
        tensorboard.require()
    assert (caught.value.tracker, caught.value.package) == ("TensorBoard", "tensorboard")


def test_tracking_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from covey.actors.observe.tensorboard import TensorBoardTracker\n"
        f"TensorBoardTracker(Path({str(tmp_path)!r}))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Asynchronous training, in which versions are judged in another order than they are made -----


def answered(version: int, site: str, **metrics: float) -> RunEvent:
    data = {"task": "train", "metrics": metrics, "staleness": 1}
    return RunEvent(EventKind.SITE_FINISHED, version, site, data)


def judged(version: int, **metrics: float) -> RunEvent:
    data = {"task": "train", "metrics": metrics, "staleness": 1.0}
    return RunEvent(EventKind.ROUND_FINISHED, version, None, data)


OVER = RunEvent(EventKind.RUN_FINISHED, data={"status": "completed"})


def test_versions_are_drawn_in_their_order(tmp_path: Path) -> None:
    track = TensorBoardTracker(tmp_path)
    track(RunEvent(EventKind.RUN_STARTED, data={"resumed_round": 2}))
    for version in (2, 4, 3, 7, 6):
        track(judged(version, accuracy=version / 10))
    assert [step for step, _ in curve(tmp_path / "global", "accuracy")] == [2, 3, 4]
    track(round_finished(8, accuracy=0.8))  # the last model, evaluated; 5 was never judged
    track(OVER)
    assert curve(tmp_path / "global", "accuracy") == [
        (version, version / 10) for version in (2, 3, 4, 6, 7, 8)
    ]


def test_a_version_that_is_waited_for_too_long_is_given_up(tmp_path: Path) -> None:
    track = TensorBoardTracker(tmp_path)
    for version in range(1, 100):
        track(judged(version, accuracy=0.5))
    drawn = [step for step, _ in curve(tmp_path / "global", "accuracy")]
    assert drawn == list(range(1, 100))
    track(judged(0, accuracy=0.5))
    track(OVER)
    assert [step for step, _ in curve(tmp_path / "global", "accuracy")] == drawn


def test_of_values_of_a_site_for_one_version_the_first_is_drawn(tmp_path: Path) -> None:
    track = TensorBoardTracker(tmp_path)
    for version, value in ((0, 0.1), (0, 0.2), (3, 0.3), (3, 0.4), (4, 0.5)):
        track(answered(version, "site-1", accuracy=value))
    track(OVER)
    assert curve(tmp_path / "site-1", "accuracy") == [(0, 0.1), (3, 0.3), (4, 0.5)]
