"""The gRPC door: the stream `covey.v1.Link/Stream`, for networks that let nothing else through.

Here: the server behind a listener, the channel of a dialer, and the relays between them and the
network. Not here: what a stream's messages hold (`grpc_pipe.py`), bytes between two sockets
(`grpc_relay.py`). `docs/grpc.md` is for those who write clients in other languages.

Theory of operation. A connection that speaks `h2` is relayed to a server of grpc's that listens on
a Unix socket in a folder of this user's alone. The relay's end has a name of its own; by that
name, which grpc gives as the stream's peer, the door finds what the connection has shown. The
dialer's side is the same the other way round; only to a listener on this host without TLS does
grpc dial itself.

grpc is imported by whoever opens or dials this door, and by nobody else: it takes a while, and a
process that has imported it must not fork. One process runs grpc in one loop only.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..endpoint import DialerTLS, Endpoint
from ..errors import LinkClosed
from .fast import CLOSE_S, presented
from .grpc_pipe import GrpcPipe, reason_of
from .grpc_relay import ABSTRACT, End, Folder
from .pipe import Presented
from .tcp import connect

if TYPE_CHECKING:
    from ..listener import Listener

#: The door's name in ALPN.
ALPN: Final = "h2"

SERVICE: Final = "covey.v1.Link"
METHOD: Final = "Stream"

#: The largest message that is taken, as is usual with gRPC.
LARGEST_MESSAGE_BYTES: Final = 4 << 20

#: Streams over one connection, and bytes of a stream's headers.
STREAMS: Final = 128
METADATA_BYTES: Final = 16 << 10

#: Seconds that a connection may be without a stream: at first, and after its last one.
STREAMLESS_S: Final = 5.0
LINGER_S: Final = 1.0

_NEVER_MS: Final = (1 << 31) - 1

#: What both sides tell grpc. Sessions ping each other, so it does not; nothing is compressed, so
#: that no small message becomes a large one.
_COMMON: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _NEVER_MS),
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
)

_SERVER: Final = (
    *_COMMON,
    ("grpc.max_concurrent_streams", STREAMS),
    ("grpc.so_reuseport", 0),
    # Clients of others may ping to keep their connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

_CHANNEL: Final = (
    *_COMMON,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)


def loaded() -> Any:
    """The package grpc, which has no types; it is loaded when it is needed first."""
    # It would write a line to the standard error for what any stranger sends.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    return grpc


# The listener's side ----------------------------------------------------------


@dataclass(slots=True)
class Guest:
    """A connection that speaks `h2`.

    Attributes:
        end: Its end of the relay.
        presented: What it shows of its peer.
        entered: The host that it is counted for among the strangers while it has had no stream.
        streams: How many it has now.
        late: Ends it if it stays without a stream.
        peer: grpc's name for it.
    """

    end: End
    presented: Presented
    entered: str | None
    streams: int = 0
    late: asyncio.TimerHandle | None = None
    peer: str = ""


class GrpcDoor:
    """The gRPC door of one listener; `open_grpc_door` makes it.

    Args:
        listener: It hands its connections over once the door is open.
        abstract: Whether relays' names are no files.

    Attributes:
        folder: Where its Unix socket is.
        guests: Connections by the names that grpc has for them.
        streamless_s: See `STREAMLESS_S`.
        closing_s: Seconds that a call has to end once it is over.
    """

    def __init__(self, listener: Listener, *, abstract: bool = ABSTRACT) -> None:
        self._listener = listener
        self._abstract = abstract
        self._loop = asyncio.get_running_loop()
        self.folder = Folder()
        self._server: Any = None
        self.guests: dict[str, Guest] = {}
        self.streamless_s = STREAMLESS_S
        self.closing_s = CLOSE_S

    async def open(self) -> None:
        """Start grpc's server, and have the listener hand over its connections."""
        grpc = loaded()
        self._server = grpc.aio.server(options=_SERVER)
        stream = grpc.stream_stream_rpc_method_handler(self._stream)
        handler = grpc.method_handlers_generic_handler(SERVICE, {METHOD: stream})
        self._server.add_generic_rpc_handlers((handler,))
        try:
            self._server.add_insecure_port(f"unix:{self.folder.socket}")
            await self._server.start()
        except BaseException:
            self.folder.remove()
            raise
        self._listener.factories[ALPN] = lambda: End(self._arrived)
        self._listener.closers.append(self.close)

    async def close(self) -> None:
        """End all streams, those in a second that still have something to send."""
        self._listener.factories.pop(ALPN, None)
        await self._server.stop(self.closing_s)
        for guest in list(self.guests.values()):
            guest.end.finish()
        self.folder.remove()

    def _arrived(self, end: End) -> None:
        """A connection has come: relay it, if there is room for one more stranger."""
        listener = self._listener
        shown = presented(end.transport, "grpc")
        host = shown.address.rpartition(":")[0]
        refused = listener.admission.enter(host)
        if refused is not None:
            listener.refusals.add(refused, shown.address)
            end.abort()
            return
        guest = Guest(end, shown, host)
        end.on_lost(lambda: self._left(guest))
        guest.late = self._loop.call_later(self.streamless_s, self._streamless, guest)
        try:
            sock, guest.peer = self.folder.connect(abstract=self._abstract)
        except OSError as error:
            listener.refusals.add("grpc-busy", f"{shown.address}: {error}")
            end.abort()
            return
        self.guests[guest.peer] = guest
        listener.own(self._relay(guest, sock))

    async def _relay(self, guest: Guest, sock: socket.socket) -> None:
        try:
            _, other = await self._loop.create_connection(lambda: End(lambda _: None), sock=sock)
        except BaseException:
            sock.close()
            guest.end.abort()
            raise
        guest.end.join(other)

    async def _stream(self, _: object, context: Any) -> None:
        """One stream, from its beginning to its end."""
        status = loaded().StatusCode
        guest = self.guests.get(context.peer())
        if guest is None:
            self._listener.refusals.add("grpc-unknown", context.peer())
            why = "this connection is not one of the listener's, or not any more"
            await context.abort(status.UNAUTHENTICATED, why)
            return
        self._begun(guest)
        try:
            pipe = GrpcPipe(context, guest.presented)
            self._listener.hold_soon(pipe)
            broken = await pipe.carry()
        finally:
            self._done(guest)
        if broken is not None:
            # Its status waits behind what the peer has not taken, maybe for ever.
            dead = self._loop.call_later(self.closing_s, guest.end.abort)
            context.add_done_callback(partial(_cancel, dead))
            await context.abort(status.ABORTED, broken)

    def _begun(self, guest: Guest) -> None:
        guest.streams += 1
        if guest.late is not None:
            guest.late.cancel()
        self._leave(guest)

    def _done(self, guest: Guest) -> None:
        guest.streams -= 1
        if not guest.streams:
            guest.late = self._loop.call_later(LINGER_S, guest.end.finish)

    def _leave(self, guest: Guest) -> None:
        """It is no stranger any more, or its streams are counted instead of it."""
        if guest.entered is not None:
            self._listener.admission.leave(guest.entered)
            guest.entered = None

    def _streamless(self, guest: Guest) -> None:
        self._listener.refusals.add("silent", f"{guest.presented.address}: no gRPC stream")
        guest.end.abort()

    def _left(self, guest: Guest) -> None:
        """A connection is gone."""
        self.guests.pop(guest.peer, None)
        self._leave(guest)
        if guest.late is not None:
            guest.late.cancel()
        self.folder.forget(guest.peer)


def _cancel(timer: asyncio.TimerHandle, _: object) -> None:
    timer.cancel()


async def open_grpc_door(listener: Listener) -> GrpcDoor:
    """Open the gRPC door of a listener, before or after the listener; it closes with it.

    Raises:
        OSError: There is no folder for the Unix socket.
        RuntimeError: grpc cannot listen there.
    """
    door = GrpcDoor(listener)
    await door.open()
    return door


# The dialer's side ------------------------------------------------------------


class Tunnel:
    """The dialer's relay: a Unix socket for grpc, and the connection that it leads to."""

    def __init__(self, far: End) -> None:
        self._far = far
        self._folder = Folder()
        self._server: asyncio.Server | None = None

    async def open(self) -> str:
        """Wait for grpc, which is to dial what is returned."""
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: End(self._joined), self._folder.socket
        )
        return f"unix:{self._folder.socket}"

    def _joined(self, near: End) -> None:
        """The first who comes is the only one."""
        if self._server is None:
            near.abort()
            return
        self._stop()
        near.join(self._far)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._folder.remove()

    def close(self) -> None:
        """End it, the connection too; idempotent."""
        self._stop()
        self._folder.remove()
        self._far.finish()


async def dial_grpc(endpoint: Endpoint, tls: DialerTLS | None) -> GrpcPipe:
    """Dial the gRPC door.

    Raises:
        OSError: There is no connection, or no TLS on it.
        LinkClosed: Something else answers there.
    """
    grpc = loaded()
    tunnel, shown, target = await _reach(endpoint, tls)
    options = [*_CHANNEL, ("grpc.default_authority", str(endpoint))]
    channel: Any = None
    try:
        if tunnel is not None:
            target = await tunnel.open()
        channel = grpc.aio.insecure_channel(target, options=options)
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
        await call.wait_for_connection()
    except BaseException as error:
        if channel is not None:
            await channel.close()
        if tunnel is not None:
            tunnel.close()
        if isinstance(error, grpc.aio.AioRpcError):
            raise LinkClosed(str(endpoint), reason_of(error)) from None
        raise
    pipe = GrpcPipe(call, shown)
    pipe.own(_carry(pipe, call, channel, tunnel))
    return pipe


async def _reach(endpoint: Endpoint, tls: DialerTLS | None) -> tuple[Tunnel | None, Presented, str]:
    """The way to a listener: a tunnel or none, what it shows, and what grpc is to dial."""
    if endpoint.is_local and not endpoint.encrypted:
        return None, Presented("grpc", str(endpoint)), str(endpoint)
    transport, far = await connect(endpoint, tls, [ALPN], lambda: End(lambda _: None))
    try:
        over_tls = transport.get_extra_info("ssl_object")
        if over_tls is not None and over_tls.selected_alpn_protocol() != ALPN:
            raise LinkClosed(str(endpoint), f"what answers there does not speak {ALPN}")
        return Tunnel(far), presented(transport, "grpc"), ""
    except BaseException:
        transport.abort()
        raise


async def _carry(pipe: GrpcPipe, call: Any, channel: Any, tunnel: Tunnel | None) -> None:
    """All of a dialed pipe's life."""
    try:
        if await pipe.carry() is None:
            async with asyncio.timeout(CLOSE_S):
                await call.done_writing()
                await call.code()
    except TimeoutError:
        pass
    finally:
        call.cancel()
        await channel.close()
        if tunnel is not None:
            tunnel.close()
