"""A session over the fast door, from the first word to the last, on real sockets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from covey.transport import Envelope, Kind, Limits, Record, Registry
from covey.transport.dialer import Dialer, Dialing
from covey.transport.doors.pipe import Presented
from covey.transport.endpoint import Endpoint
from covey.transport.listener import Listener, Listening
from covey.transport.sessions.handshake import Terms
from covey.transport.sessions.link import SessionLink


@dataclass(frozen=True, slots=True)
class Question(Record, id=1000):
    """What the tests send."""

    number: int


class Believing:
    """Takes every peer for what it says it is."""

    evidence: tuple[str, ...] = ()

    def name_of(self, presented: Presented, claimed: str) -> str | None:
        return claimed

    def check_token(self, token: bytes, binding: bytes, claimed: str) -> str:
        raise AssertionError

    def check_evidence(self, kind: str, evidence: bytes, binding: bytes, name: str) -> None:
        raise AssertionError

    def check_listener(self, presented: Presented, node: str) -> None:
        pass

    def token(self, binding: bytes, node: str) -> bytes:
        raise AssertionError

    def attest(self, kinds: tuple[str, ...], binding: bytes) -> tuple[str, bytes]:
        raise AssertionError


def test_every_envelope_arrives_once_and_in_order_though_the_connection_breaks() -> None:
    registry = Registry(Question)
    registry.freeze()
    count, ahead = 2000, 50

    async def main() -> tuple[list[int], int]:
        numbers: list[int] = []
        everything = asyncio.get_running_loop().create_future()

        def echo(link: SessionLink) -> None:
            link.start(
                lambda e: link.send(Envelope(Kind.REPLY, message=e.message)), lambda reason: None
            )

        listener = Listener(Listening(Terms("server", Limits()), registry, Believing(), echo))
        await listener.open("127.0.0.1", 0)
        links: list[SessionLink] = []
        endpoint = Endpoint.parse(f"covey+plain://127.0.0.1:{listener.port}")
        terms = Terms("site-1", Limits())
        dialer = Dialer(Dialing(endpoint, terms, registry, Believing(), links.append))
        running = asyncio.create_task(dialer.run())
        await dialer.first
        link = links[0]

        def receive(envelope: Envelope) -> None:
            assert isinstance(envelope.message, Question)
            numbers.append(envelope.message.number)
            if len(numbers) == count:
                everything.set_result(None)
                return
            if len(numbers) in (100, 700) and link.connection is not None:
                link.connection.break_off("cut by the test")
            if len(numbers) + ahead <= count:
                link.send(Envelope(Kind.ASK, message=Question(len(numbers) + ahead - 1)))

        link.start(receive, lambda reason: None)
        for number in range(ahead):
            link.send(Envelope(Kind.ASK, message=Question(number)))
        async with asyncio.timeout(30):
            await everything
        running.cancel()
        await asyncio.wait([running])
        await listener.close()
        return numbers, link.connections

    numbers, connections = asyncio.run(main())
    assert numbers == list(range(count))
    assert connections == 3
