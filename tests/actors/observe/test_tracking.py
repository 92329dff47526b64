"""Every value has one curve and one step, whoever draws it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from covey.actors.observe.errors import TrackingUnavailable
from covey.actors.observe.events import EventKind, RunEvent
from covey.actors.observe.tracking import Curves, Point, flat, require_modules


def streamed(
    site: str, key: str, value: object, step: int | None, kind: str = "scalar"
) -> RunEvent:
    data = {"key": key, "value": value, "step": step, "type": kind}
    return RunEvent(EventKind.METRIC, 3, site, data, 7.5)


def test_a_streamed_value_has_the_scripts_step_and_an_answers_the_round() -> None:
    curves = Curves()
    (point,) = curves.points(streamed("site-1", "loss", 0.5, 40))
    assert point == Point("site-1", "loss", 40, 0.5, 7.5, "scalar", by_round=False)
    answer = RunEvent(EventKind.SITE_FINISHED, 2, "site-1", {"metrics": {"accuracy": 1}}, 8.5)
    (point,) = curves.points(answer)
    assert point == Point("site-1", "accuracy", 2, 1.0, 8.5, "scalar", by_round=True)
    whole = RunEvent(EventKind.ROUND_FINISHED, 2, None, {"metrics": {"a": 1, "b": 2}})
    assert [(p.site, p.name, p.step) for p in curves.points(whole)] == [
        ("global", "a", 2),
        ("global", "b", 2),
    ]


def test_a_curve_without_steps_counts_its_values_for_each_site() -> None:
    curves = Curves()
    events = [streamed(site, "loss", 1, None) for site in ("a", "b", "a", "a")]
    assert [p.step for event in events for p in curves.points(event)] == [0, 0, 1, 2]


def test_two_kinds_of_steps_never_share_a_curve() -> None:
    curves = Curves()
    list(curves.points(streamed("a", "loss", 1, 700)))
    for site, name in (("a", "round/loss"), ("b", "loss")):
        answer = RunEvent(EventKind.SITE_FINISHED, 0, site, {"metrics": {"loss": 1.0}})
        assert [p.name for p in curves.points(answer)] == [name]


def test_what_is_no_number_is_a_text() -> None:
    (point,) = Curves().points(streamed("a", "lr", 0.1, 5, "parameter"))
    assert (point.value, point.kind) == ("0.1", "parameter")


def test_other_events_have_no_values() -> None:
    for kind in set(EventKind) - {EventKind.METRIC}:
        assert list(Curves().points(RunEvent(kind, None, None, {}))) == []


def test_settings_are_a_flat_table_of_texts() -> None:
    settings = {"rule": {"lr": 0.1, "names": ["w"]}, "rounds": 3, "key": "loss", "none": None}
    assert flat(settings) == {
        "rule.lr": "0.1",
        "rule.names": '["w"]',
        "rounds": "3",
        "key": "loss",
        "none": "null",
    }


def test_a_missing_package_names_the_extra_to_install() -> None:
    require_modules("X", "x", "json", "covey.transport")
    with pytest.raises(TrackingUnavailable) as caught:
        require_modules("X", "x", "json", "no_such_module")
    assert str(caught.value) == (
        "X tracking is not available: there is no module 'no_such_module'; "
        "install it with: pip install 'covey[x]'"
    )


def test_a_folder_of_the_packages_name_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left_by_some_tool").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    with pytest.raises(TrackingUnavailable):
        require_modules("X", "x", "left_by_some_tool")
