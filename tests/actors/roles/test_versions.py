"""A version is judged when the last site that was given it has answered or is given up."""

from __future__ import annotations

from covey.actors.roles.versions import Version, Versions


def test_a_version_is_complete_when_it_is_superseded_and_nobody_has_it() -> None:
    versions = Versions(Version(0))
    versions.give(0)
    versions.give(0)
    assert versions.answer(0, "b", {"loss": 3.0}, 1.0) is None
    assert versions.advance(Version(1)) is None
    complete = versions.answer(0, "a", {"loss": 1.0}, 3.0)
    assert complete is not None
    assert (complete.number, complete.answered, complete.failed) == (0, 2, 0)
    assert complete.metrics() == {"loss": 1.5}
    assert list(versions.numbers) == [1]


def test_a_version_that_nobody_has_any_more_is_complete_when_the_next_comes() -> None:
    versions = Versions(Version(0))
    versions.give(0)
    assert versions.answer(0, "a", {}, 1.0) is None
    complete = versions.advance(Version(1))
    assert complete is not None
    assert complete.metrics() == {}


def test_a_site_that_is_given_up_is_not_waited_for() -> None:
    versions = Versions(Version(0))
    versions.give(0)
    versions.advance(Version(1))
    complete = versions.give_up(0)
    assert complete is not None
    assert (complete.answered, complete.failed) == (0, 1)


def test_metrics_do_not_depend_on_the_order_of_answers() -> None:
    reports = [("a", 0.1, 1.0), ("b", 0.7, 2.0), ("c", 1e9, 0.5)]
    means: list[dict[str, float]] = []
    for order in (reports, reports[::-1]):
        version = Version(0, reports=[(site, {"x": value}, w) for site, value, w in order])
        means.append(version.metrics())
    assert means[0] == means[1]


def test_at_the_end_all_that_is_left_is_handed_out_in_order() -> None:
    versions = Versions(Version(4))
    versions.give(4)
    versions.advance(Version(5))
    assert [version.number for version in versions.close()] == [4, 5]
    assert list(versions.numbers) == []
