"""Accepting: strangers are counted from the first packet, and nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from covey.transport.accepting import Accepting, Acceptor, Newcomer, reason_of
from covey.transport.admission import Admission, Caps, Refusals

Main = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    def run_main(main: Main) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await main()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run_main


class Guest(Newcomer):
    """Says when it has come."""

    def __init__(self, admission: Admission, host: str, came: asyncio.Queue[Any]) -> None:
        super().__init__(admission, host)
        self._came = came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._came.put_nowait(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()


class Place:
    """An acceptor on loopback, and what has happened at it.

    Args:
        caps: Bounds on strangers.
        tls: A context, None for plaintext.
        sock: The socket, None for a new one.
    """

    def __init__(
        self,
        caps: Caps | None = None,
        tls: ssl.SSLContext | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self.admission = Admission(caps or Caps())
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.refusals = Refusals(lambda reason, count, detail: self.told.put_nowait(reason))
        self.came: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []
        sock = sock or socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.acceptor = Acceptor(
            Accepting(
                sock,
                tls,
                self.admission,
                self.refusals,
                lambda host: Guest(self.admission, host, self.came),
                self.own,
            )
        )

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.append(task)
        return task

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.acceptor.port))


def test_who_says_nothing_in_tls_is_a_stranger_all_the_time(
    run: Callable[[Main], None],
) -> None:
    async def main() -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        place = Place(Caps(strangers=8, strangers_per_address=2), tls)
        callers = [place.dial() for _ in range(3)]
        assert await place.told.get() == "strangers-per-address"
        assert len(place.admission) == 2
        callers[2].settimeout(5)
        assert callers[2].recv(1) == b""
        place.acceptor.close()
        for task in place.tasks:
            task.cancel()
        await asyncio.wait(place.tasks)
        await asyncio.sleep(0)
        assert len(place.admission) == 0
        for caller in callers:
            caller.close()

    run(main)


def test_a_connection_is_handed_to_its_protocol(run: Callable[[Main], None]) -> None:
    async def main() -> None:
        place = Place()
        with place.dial() as caller:
            transport = await place.came.get()
            assert len(place.admission) == 1
            transport.write(b"x")
            assert await asyncio.to_thread(caller.recv, 1) == b"x"
            transport.abort()
        await asyncio.wait(place.tasks)
        place.acceptor.close()
        place.acceptor.close()
        await asyncio.sleep(0)
        assert len(place.admission) == 0

    run(main)


def test_work_that_is_cancelled_before_it_began_leaves_nothing_behind(
    run: Callable[[Main], None],
) -> None:
    async def main() -> None:
        place = Place()
        cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        own = place.own

        def cancel_at_once(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            task = own(work)
            task.cancel()
            task.add_done_callback(lambda _: cancelled.set_result(None))
            return task

        object.__setattr__(place.acceptor._accepting, "own", cancel_at_once)
        with place.dial() as caller:
            await cancelled
            assert await asyncio.to_thread(caller.recv, 1) == b""
        place.acceptor.close()
        assert len(place.admission) == 0

    run(main)


class Exhausted(socket.socket):
    """A socket on which accepting fails once."""

    failed = False

    def accept(self) -> tuple[socket.socket, Any]:
        if not self.failed:
            self.failed = True
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_without_descriptors_callers_wait_in_the_kernels_queue(
    run: Callable[[Main], None],
) -> None:
    async def main() -> None:
        sock = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        place = Place(sock=sock)
        with place.dial():
            assert await place.told.get() == "exhausted"
            (await place.came.get()).abort()
        await asyncio.wait(place.tasks)
        place.acceptor.close()
        assert place.refusals.counts == Counter({"exhausted": 1})

    run(main)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionAbortedError("SSL handshake is taking longer than 5 seconds"), "tls-late"),
        (ConnectionResetError(), "tls-left"),
        (BrokenPipeError(), "tls-left"),
        (ssl.SSLError(1, "something new"), "tls"),
        (ssl.SSLCertVerificationError("something new"), "certificate"),
    ],
)
def test_whatever_tls_fails_of_has_a_word(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason
