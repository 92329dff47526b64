"""A listener whose gRPC door a foreign client uses: `grpc_listener.py`.

Here: a node that answers each question with what it was sent. It makes keys, prints where
it listens and where they are, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass

import uvloop

from covey.security.tls import server_context
from covey.transport import Envelope, Kind, Limits, Record, Registry
from covey.transport.doors.grpc import open_grpc_door
from covey.transport.listener import Listener, Listening
from covey.transport.sessions.handshake import Terms
from covey.transport.sessions.link import SessionLink

from .grpc_door import Believing, Keys


@dataclass(frozen=True, slots=True)
class Number(Record, id=1000):
    number: int


def answer(link: SessionLink) -> None:
    def receive(envelope: Envelope) -> None:
        link.send(Envelope(Kind.REPLY, envelope.sender, envelope.to, envelope.id, envelope.message))

    def lost(reason: str) -> None:
        sys.stdout.write(f"{link.peer}: {reason}\n")

    link.start(receive, lost)


async def main(folder: str) -> None:
    keys, keeper = Keys.make(folder), Believing()
    registry = Registry(Number)
    registry.freeze()
    tls = server_context(keys.server, required=True)
    listener = Listener(Listening(Terms("server", Limits()), registry, keeper, answer, tls=tls))
    await open_grpc_door(listener)
    await listener.open("127.0.0.1", 0)
    site = keys.site
    files = [str(path) for path in (site.roots, site.key, site.chain)]
    sys.stdout.write(json.dumps([f"localhost:{listener.port}", *files]) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await listener.close()
    sys.stdout.write(f"{[presented.door for presented in keeper.shown]}\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(main(folder))
