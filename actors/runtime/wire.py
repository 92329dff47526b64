"""Small dealings with links: envelopes as one run of bytes, and waiting for room.

Here: both directions of the codec, for systems that check their messages and for
the simulated network. Not here: the codec and the links (`covey.transport`).
"""

from __future__ import annotations

from typing import Final

from covey.transport import Codec, Envelope, Link, LinkClosed
from covey.transport.codec import HEADER_BYTES

_HEADER: Final = slice(None, HEADER_BYTES)


def encode(codec: Codec, envelope: Envelope) -> bytes:
    """The envelope's frame.

    Raises:
        LocalProtocolError: If it cannot be encoded.
    """
    return b"".join(codec.encode(envelope))


def decode(codec: Codec, frame: bytes) -> Envelope:
    """The envelope of a whole frame.

    Raises:
        DecodeError: If it is none.
    """
    view = memoryview(frame)
    *_, meta_bytes, body_bytes = codec.read_header(view)
    end = HEADER_BYTES + meta_bytes
    return codec.decode(view[_HEADER], view[HEADER_BYTES:end], view[end : end + body_bytes])


async def room(link: Link) -> None:
    """Wait until a link takes more; a link that ends meanwhile takes its messages along."""
    try:
        await link.ready()
    except LinkClosed:
        return
