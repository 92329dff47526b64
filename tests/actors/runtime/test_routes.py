"""Which nodes are behind which peer."""

from __future__ import annotations

import pytest

from covey.actors.runtime import routes as routes_module
from covey.actors.runtime.routes import Routes


def test_a_node_is_reached_through_whoever_announced_it_last() -> None:
    routes = Routes()
    assert routes.announce("relay-1", "site-1")
    assert routes.announce("relay-2", "site-1")
    assert routes.peer_of("site-1") == "relay-2"
    assert routes.has("relay-1", "site-1")
    assert routes.announce("relay-1", "site-1")
    assert routes.peer_of("site-1") == "relay-1"
    assert len(routes) == 1


def test_where_one_way_ends_the_one_before_it_is_taken_again() -> None:
    routes = Routes()
    for peer in ("relay-1", "relay-2"):
        routes.announce(peer, "site-1")
    assert routes.withdraw("relay-2", ["site-1", "site-9"]) == ["site-1"]
    assert routes.peer_of("site-1") == "relay-1"
    assert routes.withdraw("relay-2", ["site-1"]) == []
    assert routes.withdraw("relay-1", ["site-1"]) == ["site-1"]
    assert routes.peer_of("site-1") is None


def test_a_peer_that_is_gone_takes_all_that_it_was_the_way_to() -> None:
    routes = Routes()
    for node in ("site-1", "site-2"):
        routes.announce("relay-1", node)
    routes.announce("relay-2", "site-2")
    assert routes.behind("relay-1") == ("site-1", "site-2")
    assert routes.drop("relay-1") == ["site-1"]
    assert routes.behind("relay-1") == ()
    assert routes.peer_of("site-2") == "relay-2"
    assert routes.drop("relay-9") == []


def test_a_peer_names_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_module, "ANNOUNCED", 2)
    routes = Routes()
    assert [routes.announce("relay-1", f"site-{i}") for i in range(3)] == [True, True, False]
    assert routes.announce("relay-1", "site-1")
    assert len(routes) == 2
