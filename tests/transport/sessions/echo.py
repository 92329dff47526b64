"""A site in a process of its own that sends back what it gets, until its input ends."""

from __future__ import annotations

import asyncio
import sys

from covey.transport.dialer import Dialer, Dialing
from covey.transport.endpoint import Endpoint
from covey.transport.sessions.link import Patience, SessionLink
from tests.transport.sessions.nodes import REGISTRY, Believing, terms


async def main(port: int) -> None:
    """Dial a port of this host."""

    def opened(link: SessionLink) -> None:
        link.start(link.send, lambda reason: None)

    dialing = Dialing(
        Endpoint.parse(f"covey+plain://127.0.0.1:{port}"),
        terms("site"),
        REGISTRY,
        Believing(),
        opened,
        patience=Patience(lease_s=60, ping_s=0.1, silent_s=0.5),
        retry_s=(0.001, 0.02),
    )
    running = asyncio.create_task(Dialer(dialing).run())
    await asyncio.to_thread(sys.stdin.read)
    running.cancel()
    await asyncio.wait([running])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
