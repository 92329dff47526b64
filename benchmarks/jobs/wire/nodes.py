"""Request and reply of 1 KB over one connection: `python nodes.py server|client ...`.

`nodes.py server DOOR` prints its port and answers until its input ends. `nodes.py client DOOR PORT
IN_FLIGHT SECONDS` prints one JSON object. DOOR is a door of covey's, or one of the limits:
`raw-msgpack` is length-prefixed TCP with bare msgpack on both sides, `raw-codec` the same bytes and
the same records as covey's, without sessions.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]
import uvloop

from covey.actors.runtime.loopback import LOOPBACK
from covey.transport import Body, Codec, Envelope, FrameReader, Kind, Limits, Record, Registry
from covey.transport.dialer import Dialer, Dialing
from covey.transport.endpoint import Endpoint
from covey.transport.listener import Listener, Listening
from covey.transport.sessions.handshake import Terms
from covey.transport.sessions.link import SessionLink

# msgpack has no types.
_msgpack: Any = msgpack
_packb: Callable[[object], bytes] = _msgpack.packb
_unpackb: Callable[[bytes], Any] = _msgpack.unpackb

_SCHEMES = {
    "fast": "covey+plain",
    "upgrade": "http",
    "websocket": "ws",
    "grpc": "grpc",
}
_BODY = os.urandom(960)


@dataclass(frozen=True, slots=True)
class Question(Record, id=1000):
    """1 KB with its envelope."""

    data: Body


def registry() -> Registry:
    """The table of both sides."""
    made = Registry(Question)
    made.freeze()
    return made


class RawMsgpack(asyncio.Protocol):
    """Length-prefixed msgpack; everything of one turn leaves in one write."""

    def __init__(self, got: Callable[[Any, RawMsgpack], None]) -> None:
        self._got = got
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what has come, and answer."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "big")
            if len(buffer) - at < 4 + size:
                break
            self._got(_unpackb(bytes(buffer[at + 4 : at + 4 + size])), self)
            at += 4 + size
        del buffer[:at]
        self.flush()

    def send(self, number: int) -> None:
        """Queue a message."""
        piece = _packb({"id": number, "from": "site-1", "to": "server", "body": _BODY})
        self._out.append(len(piece).to_bytes(4, "big") + piece)

    def flush(self) -> None:
        """Write what is queued."""
        if self._out:
            self.transport.write(b"".join(self._out))
            self._out.clear()


class RawCodec(asyncio.Protocol):
    """covey's frames over bare TCP: no session, no acknowledgement."""

    def __init__(self, got: Callable[[Envelope, RawCodec], None]) -> None:
        self._got = got
        self._codec = Codec(registry())
        self._reader = FrameReader(self._codec)
        self._out: list[bytes | memoryview] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what has come, and answer."""
        for envelope in self._reader.feed(data):
            self._got(envelope, self)
        self.flush()

    def send(self, number: int) -> None:
        """Queue a message."""
        self._out += self._codec.encode(envelope_of(number))

    def flush(self) -> None:
        """Write what is queued."""
        if self._out:
            self.transport.write(b"".join(self._out))
            self._out.clear()


def envelope_of(number: int) -> Envelope:
    """A request or a reply."""
    return Envelope(Kind.ASK, "server/counter", "site-1", number, Question(_BODY))


async def serve(door: str) -> None:
    """Answer until the input ends."""
    loop = asyncio.get_running_loop()
    if door.startswith("raw"):
        kind: Any = RawMsgpack if door == "raw-msgpack" else RawCodec
        server = await loop.create_server(lambda: kind(_answer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
    else:

        def opened(link: SessionLink) -> None:
            link.start(lambda e: link.send(envelope_of(e.id)), lambda reason: None)

        listening = Listening(Terms("server", Limits()), registry(), LOOPBACK, opened)
        listener = Listener(listening)
        await listener.open("127.0.0.1", 0)
        if door == "grpc":
            from covey.transport.doors.grpc import open_grpc_door

            await open_grpc_door(listener)
        port = listener.port
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


def _answer(message: Any, protocol: Any) -> None:
    protocol.send(_number_of(message))


def _number_of(message: Any) -> int:
    return int(message.id if isinstance(message, Envelope) else message["id"])


async def ask(door: str, port: int, in_flight: int, seconds: float) -> dict[str, float]:
    """Keep so many requests in flight for so long."""
    loop = asyncio.get_running_loop()
    asked: dict[int, float] = {}
    took: list[float] = []
    over: asyncio.Future[None] = loop.create_future()
    send, ready = await _connect(door, port, lambda number: arrived(number))
    number = 0
    until = time.perf_counter() + seconds

    def put() -> None:
        nonlocal number
        number += 1
        asked[number] = time.perf_counter()
        send(number)

    def arrived(answered: int) -> None:
        now = time.perf_counter()
        took.append(now - asked.pop(answered))
        if now < until:
            put()
        elif not asked and not over.done():
            over.set_result(None)

    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(in_flight):
        put()
    ready()
    await over
    spent = time.perf_counter() - began
    took.sort()
    return {
        "per_s": len(took) / spent,
        "p50_us": took[len(took) // 2] * 1e6,
        "p99_us": took[len(took) * 99 // 100] * 1e6,
        "cpu_us": (time.process_time() - cpu) / len(took) * 1e6,
    }


async def _connect(
    door: str, port: int, arrived: Callable[[int], None]
) -> tuple[Callable[[int], None], Callable[[], None]]:
    loop = asyncio.get_running_loop()
    if door.startswith("raw"):
        kind: Any = RawMsgpack if door == "raw-msgpack" else RawCodec

        def got(message: Any, protocol: Any) -> None:
            arrived(_number_of(message))

        _, protocol = await loop.create_connection(lambda: kind(got), "127.0.0.1", port)
        return protocol.send, protocol.flush
    links: list[SessionLink] = []
    endpoint = Endpoint.parse(f"{_SCHEMES[door]}://127.0.0.1:{port}", doors=[door])
    dialing = Dialing(endpoint, Terms("site-1", Limits()), registry(), LOOPBACK, links.append)
    dialer = Dialer(dialing)
    loop.create_task(dialer.run())  # noqa: RUF006  # it lives as long as the process
    await dialer.first
    links[0].start(lambda envelope: arrived(envelope.id), lambda reason: None)
    return lambda number: links[0].send(envelope_of(number)), lambda: None


def main() -> None:
    """As the arguments say."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if sys.argv[1] == "server":
            runner.run(serve(sys.argv[2]))
        else:
            door, port, in_flight, seconds = sys.argv[2:6]
            outcome = runner.run(ask(door, int(port), int(in_flight), float(seconds)))
            sys.stdout.write(json.dumps(outcome) + "\n")
            sys.stdout.flush()
            os._exit(0)


if __name__ == "__main__":
    main()
