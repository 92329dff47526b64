"""HTTP on the one port: who may ask for what, as curl sees it."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from covey.transport.listener import Listener, Listening
from covey.transport.routes import Routes, WebLimits

from .doors.talk import Certificate, Keeper, both_loops, listener, listening, make_certificate, run


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


async def curl(url: str, *options: str) -> tuple[int, str, str]:
    """The status, the HTTP version and the body of what curl is answered."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        "--silent",
        "--show-error",
        "--write-out",
        "\n%{http_code} %{http_version}",
        *options,
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    body, _, last = out.decode().rpartition("\n")
    status, version = last.split()
    return int(status), version, body


def shown(certificate: Certificate) -> tuple[str, ...]:
    return ("--cacert", str(certificate.path), "--cert", str(certificate.path))


async def whoami(request: web.Request, caller: str) -> web.StreamResponse:
    return web.Response(text=f"{caller} asks for {request.match_info['what']}")


async def length(request: web.Request, caller: str) -> web.StreamResponse:
    return web.Response(text=str(len(await request.read())))


async def fail(request: web.Request, caller: str) -> web.StreamResponse:
    raise RuntimeError("a secret")


def https(opened: Listener) -> str:
    return f"https://localhost:{opened.port}"


def serving(
    routes: Routes, certificate: Certificate | None = None, keeper: Keeper | None = None
) -> Listening:
    tls: ssl.SSLContext | None = None if certificate is None else certificate.server()
    return replace(listening(tls, keeper), routes=routes)


@both_loops
def test_anybody_is_told_that_the_listener_is_well(loop: str) -> None:
    async def main() -> None:
        async with listener(listening()) as opened:
            url = f"http://127.0.0.1:{opened.port}"
            assert await curl(f"{url}/healthz") == (200, "1.1", "ok\n")
            assert (await curl(f"{url}/healthz", "--head"))[0] == 200
            assert not opened.refusals.counts
            assert not len(opened.admission)

    run(loop, main())


@both_loops
def test_who_offers_http2_is_answered_by_http1(loop: str, certificate: Certificate) -> None:
    async def main() -> None:
        async with listener(serving(Routes(), certificate)) as opened:
            for options in (("--http2", "-k"), ("--http1.1", "-k"), ("--no-alpn", "-k")):
                answer = await curl(f"{https(opened)}/healthz", *options)
                assert answer == (200, "1.1", "ok\n")

    run(loop, main())


def test_a_route_is_told_whose_certificate_its_caller_has(certificate: Certificate) -> None:
    async def main() -> None:
        routes = Routes()
        routes.add("GET", "/things/{what}", whoami)
        async with listener(serving(routes, certificate)) as opened:
            url = f"{https(opened)}/things/bread"
            answer = await curl(url, *shown(certificate))
            assert answer == (200, "1.1", "site-1 asks for bread")
            assert (await curl(url, "-k"))[0] == 403
            assert opened.refusals.counts == {"anonymous": 1}

    run("asyncio", main())


def test_a_caller_with_another_name_is_refused(certificate: Certificate) -> None:
    async def main() -> None:
        routes = Routes()
        routes.add("GET", "/things/{what}", whoami, allowed=lambda name: name == "admin")
        keeper = Keeper()
        async with listener(serving(routes, certificate, keeper)) as opened:
            url = f"{https(opened)}/things/bread"
            assert (await curl(url, *shown(certificate)))[0] == 403
            keeper.name = "admin"
            assert (await curl(url, *shown(certificate)))[0] == 200
            keeper.refused = True
            assert (await curl(url, *shown(certificate)))[0] == 403
            assert opened.refusals.counts == {"not-allowed": 1, "revoked": 1}

    run("asyncio", main())


def test_two_listeners_have_their_own_routes(certificate: Certificate) -> None:
    async def main() -> None:
        admin = Routes()
        admin.add("GET", "/admin/{what}", whoami)
        async with (
            listener(serving(Routes(), certificate)) as first,
            listener(serving(admin, certificate)) as second,
        ):
            path, options = "/admin/jobs", shown(certificate)
            assert (await curl(https(first) + path, *options))[0] == 404
            assert (await curl(https(second) + path, *options))[0] == 200
            assert first.refusals.counts == {"http-404": 1}

    run("asyncio", main())


def test_figures_are_for_known_callers_unless_they_are_open(certificate: Certificate) -> None:
    async def main() -> None:
        async with listener(serving(Routes(), certificate)) as opened:
            assert (await curl(f"{https(opened)}/metrics", "-k"))[0] == 403
            status, _, page = await curl(f"{https(opened)}/metrics", *shown(certificate))
            assert status == 200
            assert 'covey_refusals_total{reason="anonymous"} 1.0' in page
            assert "covey_sessions 0.0" in page
            assert 'covey_carried_bytes_total{direction="sent"} 0.0' in page
            assert "covey_strangers 0.0" in page
        async with listener(serving(Routes(open_metrics=True), certificate)) as opened:
            assert (await curl(f"{https(opened)}/metrics", "-k"))[0] == 200

    run("asyncio", main())


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "reason"),
    [
        ("GET", "/nothing", (), 404, "http-404"),
        ("DELETE", "/healthz", (), 405, "http-405"),
        ("PUT", "/length", ("--data-binary", "x" * 2000), 413, "http-413"),
        ("PUT", "/length", ("--data", "x", "-H", "Content-Encoding: gzip"), 415, "encoded"),
        ("GET", "/healthz", tuple("-HX-1: 1" for _ in range(65)), 431, "head-large"),
        ("GET", "/healthz", ("-H", "X: " + "x" * 9000), 400, "malformed"),
        ("GET", "/healthz", tuple("-HX: " + "x" * 6000 for _ in range(3)), 0, "head-large"),
        ("GET", "/fail", (), 500, "failed"),
        ("GET", "/covey/v1/websocket", (), 400, ""),
        ("GET", "/covey/v1/stream", (), 426, ""),
    ],
)
def test_what_is_refused_is_answered_and_counted(
    method: str,
    path: str,
    options: tuple[str, ...],
    status: int,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        routes = Routes()
        routes.add("PUT", "/length", length, open=True)
        routes.add("GET", "/fail", fail, open=True)
        limits = WebLimits(request_bytes=1000)
        async with listener(replace(serving(routes), web_limits=limits)) as opened:
            url = f"http://127.0.0.1:{opened.port}{path}"
            if status:
                answered, _, text = await curl(url, "--request", method, *options)
                assert answered == status
                assert "secret" not in text
            else:
                with pytest.raises(AssertionError):
                    await curl(url, "--request", method, *options)
            assert opened.refusals.counts == ({reason: 1} if reason else {})
            assert not len(opened.admission)

    run("asyncio", main())
    assert len(caplog.records) == (1 if reason == "failed" else 0)


@pytest.mark.parametrize("door", ["websocket", "stream"])
def test_no_page_in_a_browser_opens_a_session(door: str) -> None:
    async def main() -> None:
        async with listener(listening()) as opened:
            url = f"http://127.0.0.1:{opened.port}/covey/v1/{door}"
            for origin in ("https://bad.example", "null", f"http://127.0.0.1:{opened.port}", ""):
                field = f"Origin: {origin}" if origin else "Origin;"  # curl's way to say nothing
                assert (await curl(url, "-H", field))[0] == 403
            assert opened.refusals.counts == {"origin": 4}

    run("asyncio", main())


def test_a_path_is_served_once() -> None:
    routes = Routes()
    routes.add("GET", "/a", whoami)
    with pytest.raises(ValueError, match="served already"):
        routes.add("get", "/a", whoami)
