"""What happens at the gRPC door, scenario after scenario, in a process and a loop of its own.

Here: the scenarios of `test_grpc.py`, which runs this program: grpc tolerates one loop in a
process, and its threads must not be in a process that forks. Each prints a line of JSON: its name,
and what went wrong if anything. Not here: what needs no grpc (`test_grpc_pipe.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import tempfile
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop

from covey.security.tls import KeyFiles, client_context_maker, server_context
from covey.transport import Body, Envelope, Kind, LinkClosed, Record, Refused, Registry
from covey.transport.dialer import Dialer, Dialing, dial
from covey.transport.doors.grpc import (
    LARGEST_MESSAGE_BYTES,
    METHOD,
    SERVICE,
    GrpcDoor,
    dial_grpc,
    loaded,
)
from covey.transport.doors.grpc_pipe import data_of, head
from covey.transport.doors.pipe import Pipe, Presented
from covey.transport.endpoint import DialerTLS, Endpoint
from covey.transport.limits import Limits
from covey.transport.listener import Listener, Listening
from covey.transport.sessions.handshake import Terms
from covey.transport.sessions.link import SessionLink
from tests.pki import Authority

Scenario = Callable[[], Awaitable[None]]

#: By name; `test_grpc.py` has a test for each.
SCENARIOS: Final[dict[str, Scenario]] = {}

#: No scenario takes longer.
LONGEST_S: Final = 20


def scenario(run: Scenario) -> Scenario:
    SCENARIOS[getattr(run, "__name__", "")] = run
    return run


# Who takes part ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item(Record, id=1000):
    number: int
    data: Body = b""


REGISTRY = Registry(Item)
REGISTRY.freeze()


@dataclass
class Believing:
    """Takes every peer for what it says it is, and remembers what it showed."""

    evidence: tuple[str, ...] = ()
    shown: list[Presented] = field(default_factory=list[Presented])
    refused: bool = False

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        self.shown.append(presented)
        if self.refused:
            raise Refused(presented.address, "revoked", "its certificate is revoked")
        return claimed

    def check_token(self, token: bytes, binding: bytes, claimed: str) -> str:
        raise AssertionError

    def check_evidence(self, kind: str, evidence: bytes, binding: bytes, name: str) -> None:
        raise AssertionError

    def check_listener(self, presented: Presented, node: str) -> None:
        self.shown.append(presented)

    def token(self, binding: bytes, node: str) -> bytes:
        raise AssertionError

    def attest(self, kinds: tuple[str, ...], binding: bytes) -> tuple[str, bytes]:
        raise AssertionError


class Catching(Listener):
    """A listener that opens no session, and gives away its pipes."""

    def __init__(self, listening: Listening) -> None:
        super().__init__(listening)
        self.pipes: asyncio.Queue[Pipe] = asyncio.Queue()

    def hold_soon(self, pipe: Pipe) -> None:
        self.pipes.put_nowait(pipe)


class Taker:
    """A sink that counts."""

    def __init__(self, pipe: Pipe) -> None:
        loop = asyncio.get_running_loop()
        self.pipe = pipe
        self.data = bytearray()
        self.wanted = 0
        self.whole: asyncio.Future[None] = loop.create_future()
        self.end: asyncio.Future[str] = loop.create_future()
        self.room = asyncio.Event()
        pipe.start(self)

    def destination(self) -> memoryview | None:
        return None

    def filled(self, count: int) -> None:
        raise AssertionError

    def take(self, data: memoryview) -> None:
        self.data += data
        if self.wanted and len(self.data) >= self.wanted and not self.whole.done():
            self.whole.set_result(None)

    def writable(self) -> None:
        self.room.set()

    def ended(self, reason: str) -> None:
        self.end.set_result(reason)

    async def until(self, size: int) -> None:
        self.wanted = size
        self.take(memoryview(b""))
        await self.whole


@dataclass(frozen=True)
class Keys:
    """An authority's listener and site."""

    server: KeyFiles
    site: KeyFiles

    @classmethod
    def make(cls, folder: str) -> Keys:
        authority = Authority(Path(folder))
        return cls(authority.issue("server", "server"), authority.issue("site", "site-1"))


def der(files: KeyFiles) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.chain.read_text().split("-----END")[0] + END)


END: Final = "-----END CERTIFICATE-----\n"


def echo(link: SessionLink) -> None:
    link.start(lambda e: link.send(Envelope(Kind.REPLY, message=e.message)), lambda _: None)


def listening(keeper: Believing, keys: Keys | None = None) -> Listening:
    tls = None if keys is None else server_context(keys.server)
    return Listening(Terms("server", Limits()), REGISTRY, keeper, echo, tls=tls)


@asynccontextmanager
async def opened(listener: Listener, *, abstract: bool | None = None) -> AsyncGenerator[GrpcDoor]:
    door = GrpcDoor(listener) if abstract is None else GrpcDoor(listener, abstract=abstract)
    await door.open()
    await listener.open("127.0.0.1", 0)
    try:
        yield door
    finally:
        await listener.close()
        assert not Path(door.folder.socket).parent.exists()
        assert len(listener.admission) == 0


def endpoint(listener: Listener, keys: Keys | None = None) -> Endpoint:
    scheme = "grpc" if keys is None else "grpcs"
    return Endpoint.parse(f"{scheme}://127.0.0.1:{listener.port}")


def tls_of(keys: Keys | None) -> DialerTLS | None:
    return None if keys is None else client_context_maker(keys.site)


@asynccontextmanager
async def pipes(keys: Keys | None = None) -> AsyncGenerator[tuple[Taker, Taker, Catching]]:
    """Both ends of a pipe through the door: the dialer's, then the listener's."""
    listener = Catching(listening(Believing(), keys))
    async with opened(listener):
        near = Taker(await dial("grpc", endpoint(listener, keys), tls_of(keys)))
        far = Taker(await listener.pipes.get())
        yield near, far, listener
        near.pipe.abort()
        far.pipe.abort()


async def talk(listener: Listener, keys: Keys | None, sizes: list[int], cuts: int = 0) -> int:
    """Send items through the door and have them back in order; the number of connections."""
    links: list[SessionLink] = []
    keeper = Believing()
    dialing = Dialing(
        endpoint(listener, keys),
        Terms("site-1", Limits()),
        REGISTRY,
        keeper,
        links.append,
        tls=tls_of(keys),
        retry_s=(0.01, 0.02),
    )
    dialer = Dialer(dialing)
    running = asyncio.create_task(dialer.run())
    everything: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    got: list[tuple[int, int]] = []
    try:
        await dialer.first
        link = links[0]

        def receive(envelope: Envelope) -> None:
            assert isinstance(envelope.message, Item)
            got.append((envelope.message.number, len(envelope.message.data)))
            if len(got) == len(sizes):
                everything.set_result(None)
            elif link.connections <= cuts and link.connection is not None:
                link.connection.break_off("cut by the test")

        link.start(receive, lambda _: None)
        for number, size in enumerate(sizes):
            await link.ready()
            link.send(Envelope(Kind.CHUNK, message=Item(number, bytes(size))))
        await everything
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert got == list(enumerate(sizes))
    return links[0].connections


# Sessions ---------------------------------------------------------------------

SIZES: Final = [*range(500), 1 << 20, 8 << 20, 0, 3 << 20, *range(500)]


@scenario
async def envelopes_go_both_ways_whatever_their_size() -> None:
    listener = Listener(listening(Believing()))
    async with opened(listener):
        assert await talk(listener, None, SIZES) == 1
    assert not listener.sessions


@scenario
async def envelopes_go_both_ways_under_tls() -> None:
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys.make(folder)
        listener = Listener(listening(Believing(), keys))
        async with opened(listener):
            assert await talk(listener, keys, SIZES) == 1


@scenario
async def another_host_is_reached_without_tls_too() -> None:
    listener = Catching(listening(Believing()))
    async with opened(listener):
        elsewhere = Endpoint("127.1", listener.port, ("grpc",), encrypted=False)
        assert not elsewhere.is_local
        near = Taker(await dial("grpc", elsewhere, None))
        far = Taker(await listener.pipes.get())
        near.pipe.write([b"hello"])
        await far.until(5)
        near.pipe.close()
        assert await far.end == "closed by the peer"


@scenario
async def a_session_goes_on_over_another_stream_when_one_breaks() -> None:
    listener = Listener(listening(Believing()))
    async with opened(listener):
        assert await talk(listener, None, [2000] * 2000, cuts=2) == 3


@scenario
async def names_of_connections_may_be_files() -> None:
    listener = Listener(listening(Believing()))
    async with opened(listener, abstract=False) as door:
        await talk(listener, None, [10] * 100)
        folder = Path(door.folder.socket).parent
        await settled(lambda: [path.name for path in folder.iterdir()] == ["s"])


async def settled(holds: Callable[[], bool]) -> None:
    """Wait until something holds; the scenario's time bounds it."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@scenario
async def both_sides_see_each_others_certificates() -> None:
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys.make(folder)
        listener = Catching(listening(Believing(), keys))
        async with opened(listener):
            pipe = await dial("grpc", endpoint(listener, keys), tls_of(keys))
            other = await listener.pipes.get()
            assert pipe.presented == Presented(
                "grpc", f"127.0.0.1:{listener.port}", der(keys.server), encrypted=True
            )
            assert other.presented.certificate == der(keys.site)
            assert other.presented.door == "grpc"
            assert other.presented.encrypted
            assert other.presented.address.startswith("127.0.0.1:")
            pipe.abort()


@scenario
async def without_tls_nothing_is_seen() -> None:
    async with pipes() as (near, far, _):
        assert near.pipe.presented.certificate is None
        assert not near.pipe.presented.encrypted
        assert far.pipe.presented.certificate is None
        assert not far.pipe.presented.encrypted


@scenario
async def a_refusal_reaches_the_dialer_with_its_code() -> None:
    listener = Listener(listening(Believing(refused=True)))
    async with opened(listener):
        with pytest.raises(Refused) as caught:
            await talk(listener, None, [1])
        assert caught.value.code == "revoked"
        assert listener.refusals.counts["revoked"] == 1


# Pipes ------------------------------------------------------------------------


@scenario
async def what_was_written_before_close_arrives() -> None:
    data = bytes(range(256)) * 4096
    for keys in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            async with pipes(Keys.make(folder) if keys else None) as (near, far, _):
                near.pipe.write([data, memoryview(data)[:1000]])
                near.pipe.close()
                near.pipe.write([b"too late"])
                assert await far.end == "closed by the peer"
                assert await near.end == "closed"
                assert bytes(far.data) == data + data[:1000]


@scenario
async def what_the_listener_wrote_before_close_arrives() -> None:
    data = bytes(range(256)) * 4096
    async with pipes() as (near, far, _):
        far.pipe.write([data])
        far.pipe.close()
        assert await near.end == "closed by the peer"
        assert await far.end == "closed"
        assert bytes(near.data) == data


@scenario
async def an_abort_tells_the_other_side() -> None:
    async with pipes() as (near, far, _):
        near.pipe.abort()
        assert await near.end == "broken off"
        assert await far.end == "closed by the peer"
    async with pipes() as (near, far, _):
        far.pipe.abort()
        assert await far.end == "broken off"
        assert await near.end == "ABORTED: broken off"


@scenario
async def a_lost_connection_ends_both_sides() -> None:
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys.make(folder)
        listener = Catching(listening(Believing(), keys))
        async with opened(listener) as door:
            near = Taker(await dial("grpc", endpoint(listener, keys), tls_of(keys)))
            far = Taker(await listener.pipes.get())
            for guest in list(door.guests.values()):
                guest.end.abort()
            assert (await near.end).startswith("UNAVAILABLE")
            assert await far.end
            await settled(lambda: not door.guests)


async def pour(taker: Taker, size: int) -> int:
    """Write as long as the pipe takes something; `taker.wanted` counts what it took."""
    piece = bytes(64 << 10)
    while taker.wanted < size:
        while not taker.pipe.is_writable:
            taker.room.clear()
            await taker.room.wait()
        taker.pipe.write([piece])
        taker.wanted += len(piece)
    return taker.wanted


async def hold_back(writer: Taker, reader: Taker) -> None:
    size = 64 << 20
    reader.pipe.pause()
    pouring = asyncio.create_task(pour(writer, size))
    # Nothing tells that no more will be taken, so it is given a while in which to go wrong.
    await asyncio.wait([pouring], timeout=1.0)
    assert not pouring.done()
    assert writer.wanted < 16 << 20, writer.wanted
    assert len(reader.data) < 1 << 20
    reader.pipe.resume()
    await reader.until(size)
    assert await pouring == len(reader.data) == size


@scenario
async def who_does_not_read_holds_the_dialer_back() -> None:
    async with pipes() as (near, far, _):
        await hold_back(near, far)


@scenario
async def who_does_not_read_holds_the_listener_back() -> None:
    async with pipes() as (near, far, _):
        await hold_back(far, near)


@scenario
async def who_does_not_read_holds_the_other_back_under_tls() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with pipes(Keys.make(folder)) as (near, far, _):
            await hold_back(near, far)
            far.wanted = near.wanted = 0
            near.data.clear()
            near.whole = asyncio.get_running_loop().create_future()
            await hold_back(far, near)


@scenario
async def a_stream_that_is_broken_off_ends_though_the_peer_reads_nothing() -> None:
    listener = Catching(listening(Believing()))
    async with opened(listener) as door:
        near = Taker(await dial("grpc", endpoint(listener), None))
        far = Taker(await listener.pipes.get())
        near.pipe.pause()
        pouring = asyncio.create_task(pour(far, 64 << 20))
        await asyncio.wait([pouring], timeout=0.5)
        assert not pouring.done()
        far.pipe.abort()
        await settled(lambda: not door.guests)
        pouring.cancel()
        near.pipe.abort()


@scenario
async def calls_over_one_connection_do_not_disturb_each_other() -> None:
    grpc = loaded()
    listener = Catching(listening(Believing()))
    async with opened(listener) as door:
        door.closing_s = 0.05  # after which a connection is ended whose call does not end
        async with grpc.aio.insecure_channel(str(endpoint(listener))) as channel:
            method = channel.stream_stream(f"/{SERVICE}/{METHOD}")
            one = method()
            first = Taker(await listener.pipes.get())
            other = method()
            await other.write(head(5) + b"other")
            second = Taker(await listener.pipes.get())
            assert [guest.streams for guest in door.guests.values()] == [2]
            first.pipe.abort()
            with pytest.raises(grpc.aio.AioRpcError, match="broken off"):
                await one.read()
            await asyncio.sleep(0.2)  # longer than that
            second.pipe.write([b"still here"])
            assert bytes(data_of(await other.read())) == b"still here"
            await other.done_writing()
            assert await second.end == "closed by the peer"
            assert bytes(second.data) == b"other"
            assert await other.code() is grpc.StatusCode.OK
        await settled(lambda: not door.guests)


@scenario
async def connections_leave_no_descriptors_behind() -> None:
    def held() -> int:
        return len(os.listdir("/dev/fd"))

    with tempfile.TemporaryDirectory() as folder:
        keys = Keys.make(folder)
        listener = Catching(listening(Believing(), keys))
        async with opened(listener) as door:
            counts: list[int] = []
            for number in range(30):
                near = Taker(await dial("grpc", endpoint(listener, keys), tls_of(keys)))
                far = Taker(await listener.pipes.get())
                (near if number % 2 else far).pipe.abort()
                await near.end
                await far.end
                await settled(lambda: not door.guests)
                counts.append(held())
            await settled(lambda: held() <= counts[1])


# Strangers and foreigners -----------------------------------------------------

STRANGER: Final = """
import socket, sys
import grpc

channel = grpc.insecure_channel("unix:" + sys.argv[1])
stream = channel.stream_stream(sys.argv[2])
try:
    next(stream(iter([b""])))
except grpc.RpcError as error:
    print(error.code().name)
"""


@scenario
async def whoever_comes_to_the_unix_socket_itself_is_not_let_in() -> None:
    listener = Catching(listening(Believing()))
    async with opened(listener) as door:
        assert Path(door.folder.socket).parent.stat().st_mode & 0o777 == 0o700
        stranger = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STRANGER, door.folder.socket, f"/{SERVICE}/{METHOD}",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        printed, _ = await stranger.communicate()
        assert printed.decode().strip() == "UNAUTHENTICATED"
        assert listener.pipes.empty()
        assert listener.refusals.counts["grpc-unknown"] == 1


async def outcome(listener: Listener, message: bytes, method: str, **options: Any) -> str:
    """What a foreign client gets that sends one message and waits."""
    grpc = loaded()
    async with grpc.aio.insecure_channel(str(endpoint(listener)), **options) as channel:
        call = channel.stream_stream(method)()
        try:
            await call.write(message)
            await call.read()
        except grpc.aio.AioRpcError:
            pass
        return f"{(await call.code()).name}: {await call.details()}"
    raise AssertionError


@scenario
async def what_is_no_message_of_ours_ends_the_stream() -> None:
    listener = Listener(listening(Believing()))
    path = f"/{SERVICE}/{METHOD}"
    async with opened(listener):
        assert "it is no covey.v1.Frames" in await outcome(listener, b"\x12\x01a", path)
        assert (await outcome(listener, b"", "/covey.v1.Link/Other")).startswith("UNIMPLEMENTED")
        large = head(LARGEST_MESSAGE_BYTES) + bytes(LARGEST_MESSAGE_BYTES)
        assert (await outcome(listener, large, path)).startswith("RESOURCE_EXHAUSTED")
        assert listener.refusals.counts["protocol"] == 0


@scenario
async def what_is_no_hello_is_answered_with_a_farewell() -> None:
    listener = Listener(listening(Believing()))
    async with opened(listener):
        await outcome(listener, head(24) + bytes(24), f"/{SERVICE}/{METHOD}")
        assert listener.refusals.counts["protocol"] == 1
        assert not listener.sessions


@scenario
async def nothing_compressed_is_taken() -> None:
    listener = Listener(listening(Believing()))
    gzip = {"compression": loaded().Compression.Gzip}
    async with opened(listener):
        await outcome(listener, head(1000) + bytes(1000), f"/{SERVICE}/{METHOD}", **gzip)
    assert listener.refusals.counts["protocol"] == 0  # which zeros would be


@scenario
async def a_connection_without_a_stream_is_ended() -> None:
    listener = Listener(listening(Believing()))
    async with opened(listener) as door:
        door.streamless_s = 0.05
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        await settled(lambda: not door.guests)
        assert listener.refusals.counts["silent"] == 1


@scenario
async def strangers_are_counted_whichever_stream_they_open() -> None:
    from covey.transport.admission import Caps

    listener = Listener(
        Listening(Terms("server", Limits()), REGISTRY, Believing(), echo, caps=Caps(256, 2))
    )
    async with opened(listener) as door:
        at = [await dial("grpc", endpoint(listener), None) for _ in range(2)]
        await settled(lambda: sum(guest.streams for guest in door.guests.values()) == 2)
        assert len(listener.admission) == 2
        with pytest.raises(LinkClosed):
            await dial("grpc", endpoint(listener), None)
        assert sum(listener.refusals.counts.values()) == 1
        for pipe in at:
            pipe.abort()
        await settled(lambda: len(listener.admission) == 0)


@scenario
async def where_the_door_is_shut_the_dialer_is_told() -> None:
    listener = Listener(listening(Believing()))
    await listener.open("127.0.0.1", 0)
    with pytest.raises(LinkClosed, match="UNAVAILABLE"):
        await dial_grpc(endpoint(listener), None)
    await listener.close()
    assert listener.refusals.counts["door"] == 1


@scenario
async def curl_gets_http_1_from_a_listener_with_both_doors() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for keys in (None, Keys.make(folder)):
            listener = Listener(listening(Believing(), keys))
            async with opened(listener):
                scheme = "http" if keys is None else "https"
                url = f"{scheme}://127.0.0.1:{listener.port}/healthz"
                form = "%{http_version} %{http_code}"
                offers = ["--http2"] if keys is not None else []
                curl = await asyncio.create_subprocess_exec(
                    "curl", *offers, "-k", "-s", "-o", "/dev/null", "-w", form, url,
                    stdout=asyncio.subprocess.PIPE,
                )  # fmt: skip
                printed, _ = await curl.communicate()
                assert printed.decode() == "1.1 200"
                await talk(listener, keys, [1, 2, 3])


async def main() -> None:
    for name, run in SCENARIOS.items():
        if sys.argv[2:] and name not in sys.argv[2:]:
            continue
        error = ""
        try:
            async with asyncio.timeout(LONGEST_S):
                await run()
        except Exception:
            error = traceback.format_exc()
        sys.stdout.write(json.dumps([name, error]) + "\n")


if __name__ == "__main__":
    (uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(main())
