"""FrameReader: envelopes out of a stream of bytes.

Here: where a frame begins and ends, whatever the pieces it comes in, and which descriptors
belong to which envelope. Sans-IO. Not here: what a frame means (`codec.py`), sockets.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from typing import Final

from .codec import HEADER_BYTES, Codec, Header
from .envelope import Envelope
from .errors import DecodeError
from .record import Body

#: A body of which so much is missing is read in place: less does not fill a read.
_DIRECT_BYTES: Final = 32 << 10


class FrameReader:
    """Cuts a stream into envelopes.

    Lengths are checked before anything is kept, so no more is ever held than one frame within
    the codec's limits. Bytes given to `feed` are not kept: their owner may use the buffer again.

    After the first bad frame the stream is lost: there is no way to find the next one.

    Args:
        codec: Decodes the frames.

    Attributes:
        error: What ended the stream, None while it is whole.
    """

    __slots__ = ("_body", "_codec", "_descriptors", "_filled", "_head", "_header", "_meta", "error")

    def __init__(self, codec: Codec) -> None:
        self.error: DecodeError | None = None
        self._codec = codec
        self._descriptors: deque[int] = deque()
        self._head = bytearray()
        self._header: Header | None = None  # of the frame whose parts are being filled
        self._meta = bytearray()
        self._body = bytearray()
        self._filled = 0

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame that are held."""
        return len(self._head) + self._filled

    def feed(self, data: bytes | bytearray | memoryview, fds: Iterable[int] = ()) -> list[Envelope]:
        """Take the next piece of the stream and give the envelopes it completes.

        Envelopes before a bad frame are given; the error is then in `error`, and raised by the
        next call.

        Args:
            data: Any number of bytes.
            fds: Descriptors that came with them. The reader owns them until an envelope has
                claimed them.

        Raises:
            DecodeError: If the first frame to be completed is bad, or an earlier one was.
        """
        self._descriptors.extend(fds)
        if self.error is not None:
            raise self.error
        envelopes: list[Envelope] = []
        try:
            self._consume(memoryview(data), envelopes)
            self._check_descriptors()
        except DecodeError as error:
            self.error = error
            self._forget()
            if not envelopes:
                raise
        return envelopes

    def use(self, codec: Codec) -> None:
        """Decode by `codec` from the next frame on, as limits are agreed; between frames only."""
        self._codec = codec

    def feed_one(self, view: memoryview) -> tuple[int, Envelope | None]:
        """Take bytes up to the end of the first frame; how many, and its envelope if it is whole.

        For the first words of a session, after which frames may mean something else.

        Raises:
            DecodeError: If the frame is bad, or an earlier one was.
        """
        if self.error is not None:
            raise self.error
        taken, envelopes = 0, list[Envelope]()
        try:
            while taken < len(view) and not envelopes:
                taken += self._resume(view[taken:], envelopes)
        except DecodeError as error:
            self.error = error
            self._forget()
            raise
        return taken, (envelopes[0] if envelopes else None)

    def destination(self) -> memoryview | None:
        """Where the rest of a large body goes, None while no such body is being read.

        Bytes that are put there, and told to `filled`, take one copy less than by `feed`.
        """
        if self._header is None or self._filled < self._header[5]:
            return None
        rest = memoryview(self._body)[self._filled - self._header[5] :]
        return rest if len(rest) >= _DIRECT_BYTES else None

    def filled(self, count: int) -> Envelope | None:
        """`count` bytes have been put into the last `destination`; the envelope, if it is whole.

        Raises:
            DecodeError: If the frame is bad.
        """
        self._filled += count
        envelopes: list[Envelope] = []
        try:
            self._end_frame(envelopes)
        except DecodeError as error:
            self.error = error
            self._forget()
            raise
        return envelopes[0] if envelopes else None

    def eof(self) -> None:
        """Say that the stream has ended.

        Raises:
            DecodeError: If it ended within a frame, or was bad before.
        """
        if self.error is None and self.pending:
            held = self.pending
            self._forget()
            self.error = DecodeError("frame", f"the stream ended after {held} bytes of it")
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Close the descriptors that no envelope has claimed; idempotent."""
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _consume(self, view: memoryview, envelopes: list[Envelope]) -> None:
        end = len(view)
        position = self._resume(view, envelopes) if self._head else 0
        read_header = self._codec.read_header
        while end - position >= HEADER_BYTES:
            header = read_header(view, position)
            meta = position + HEADER_BYTES
            body = meta + header[5]
            after = body + header[6]
            if after > end:
                break
            # The copy of the body is the one from the receive buffer, which is used again.
            own = bytes(view[body:after]) if header[6] else b""
            envelopes.append(self._decode(header, view[meta:body], own))
            position = after
        while position < end:
            position += self._resume(view[position:], envelopes)

    def _resume(self, view: memoryview, envelopes: list[Envelope]) -> int:
        """Add to the unfinished frame; gives how many bytes it took."""
        taken = 0
        header = self._header
        if header is None:
            taken = min(HEADER_BYTES - len(self._head), len(view))
            self._head += view[:taken]
            if len(self._head) < HEADER_BYTES:
                return taken
            header = self._begin()
        taken += self._fill(view[taken:], header)
        self._end_frame(envelopes)
        return taken

    def _end_frame(self, envelopes: list[Envelope]) -> None:
        """Decode the frame that is being filled, if it is whole."""
        header = self._header
        if header is not None and self._filled == header[5] + header[6]:
            meta, body = self._meta, memoryview(self._body).toreadonly()
            self._forget()
            envelopes.append(self._decode(header, meta, body))

    def _begin(self) -> Header:
        """Check a header that came in pieces and make room for its parts."""
        header = self._header = self._codec.read_header(self._head)
        # Zeroed memory of this size is not touched, so not paid for, until it is filled.
        self._meta = bytearray(header[5])
        self._body = bytearray(header[6])
        return header

    def _fill(self, view: memoryview, header: Header) -> int:
        meta_length, body_length = header[5], header[6]
        taken = 0
        if self._filled < meta_length:
            taken = min(meta_length - self._filled, len(view))
            self._meta[self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
        if self._filled >= meta_length:
            at = self._filled - meta_length
            more = min(body_length - at, len(view) - taken)
            self._body[at : at + more] = view[taken : taken + more]
            self._filled += more
            taken += more
        return taken

    def _forget(self) -> None:
        self._head = bytearray()
        self._header = None
        self._meta = self._body = bytearray()
        self._filled = 0

    def _decode(self, header: Header, meta: bytearray | memoryview, body: Body) -> Envelope:
        count = header[3]
        if not count:
            return self._codec.decode_parts(header, meta, body)
        if count > len(self._descriptors):
            came = len(self._descriptors)
            raise DecodeError("header", f"{count} descriptors announced, {came} came")
        fds = tuple(self._descriptors.popleft() for _ in range(count))
        try:
            return self._codec.decode_parts(header, meta, body, fds)
        except DecodeError:
            self._descriptors.extend(fds)  # still ours: `close` closes them
            raise

    def _check_descriptors(self) -> None:
        """Descriptors come with the first byte of their frame: none wait between frames."""
        waiting = len(self._descriptors)
        if waiting and (waiting > self._codec.limits.fds or not self.pending):
            raise DecodeError("frame", f"{waiting} descriptors that no envelope announces")
