"""Endpoint: which URLs mean what, and which mean nothing."""

from __future__ import annotations

import pytest

from covey.transport.endpoint import DOORS, Endpoint


@pytest.mark.parametrize(
    ("url", "expected", "text"),
    [
        ("https://fed.example", Endpoint("fed.example", 443, DOORS, True), "fed.example:443"),
        ("https://fed.example:8443/", Endpoint("fed.example", 8443, DOORS, True), None),
        ("HTTPS://Fed.Example", Endpoint("fed.example", 443, DOORS, True), None),
        ("http://10.0.0.1", Endpoint("10.0.0.1", 80, DOORS, False), "10.0.0.1:80"),
        ("https://[::1]:9", Endpoint("::1", 9, DOORS, True), "[::1]:9"),
        ("covey://a:1", Endpoint("a", 1, ("fast",), True), None),
        ("covey+plain://a:1", Endpoint("a", 1, ("fast",), False), None),
        ("wss://a", Endpoint("a", 443, ("websocket",), True), None),
        ("ws://a", Endpoint("a", 80, ("websocket",), False), None),
        ("grpcs://a", Endpoint("a", 443, ("grpc",), True), None),
        ("grpc://a", Endpoint("a", 80, ("grpc",), False), None),
        ("unix:/run/a%20b", Endpoint("/run/a b", 0, ("unix",), False), "unix:/run/a b"),
        ("unix:///run/a", Endpoint("/run/a", 0, ("unix",), False), None),
    ],
)
def test_what_a_url_stands_for(url: str, expected: Endpoint, text: str | None) -> None:
    endpoint = Endpoint.parse(url)
    assert endpoint == expected
    assert text is None or str(endpoint) == text


def test_doors_may_be_chosen_in_any_order() -> None:
    assert Endpoint.parse("https://a", doors=["grpc", "fast"]).doors == ("grpc", "fast")
    assert Endpoint.parse("http://a", doors=["upgrade"]).doors == ("upgrade",)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "fed.example",
        "fed.example:443",
        "ftp://a",
        "https://",
        "https://:443",
        "https://a/path",
        "https://a?query",
        "https://a#fragment",
        "https://user@a",
        "https://user:word@a",
        "https://:word@a",
        "https://a:0",
        "https://a:65536",
        "https://a:port",
        "https://[::1",
        "unix:",
        "unix://host/path",
        "unix:/path?query",
    ],
)
def test_what_is_no_address_is_said_so(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Endpoint.parse(url)


@pytest.mark.parametrize("doors", [[], ["unix"], ["fast", "smoke"]])
def test_doors_that_the_scheme_has_not_are_said_so(doors: list[str]) -> None:
    with pytest.raises(ValueError, match="door"):
        Endpoint.parse("https://a", doors=doors)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost", True),
        ("http://127.0.0.1:1", True),
        ("http://[::1]", True),
        ("unix:/a", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
    ],
)
def test_what_is_certainly_on_this_host(url: str, local: bool) -> None:
    assert Endpoint.parse(url).is_local == local


def test_a_port_out_of_range_is_named_with_its_address() -> None:
    for port in ("99999", "http", "-1"):
        with pytest.raises(ValueError, match=f"'http://host:{port}': the port is no number"):
            Endpoint.parse(f"http://host:{port}")
