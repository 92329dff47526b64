"""What a gRPC stream's messages hold, and how a pipe fills them; nothing here needs grpc's core."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from covey.transport import RemoteProtocolError
from covey.transport.doors.grpc_pipe import MESSAGE_BYTES, GrpcPipe, data_of, head
from covey.transport.doors.grpc_relay import ABSTRACT, Folder
from covey.transport.doors.pipe import Presented


def generated() -> Any:
    """The class that code generated from covey.proto has for `Frames`."""
    file = descriptor_pb2.FileDescriptorProto(
        name="covey.proto", package="covey.v1", syntax="proto3"
    )
    data = file.message_type.add(name="Frames").field.add(name="data", number=1)
    data.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    data.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("covey.v1.Frames"))


FRAMES = generated()


@given(st.binary(max_size=300) | st.integers(0, 3 << 20).map(bytes))
def test_messages_are_those_of_generated_code(data: bytes) -> None:
    theirs: bytes = FRAMES(data=data).SerializeToString()
    assert data_of(theirs) == data
    ours = head(len(data)) + data
    assert FRAMES.FromString(ours).data == data
    assert data_of(ours) == data


@given(st.binary(max_size=64))
def test_whatever_else_comes_is_refused_or_what_protobuf_reads(message: bytes) -> None:
    try:
        data = data_of(message)
    except RemoteProtocolError:
        return
    assert FRAMES.FromString(message).data == data


@pytest.mark.parametrize(
    "message",
    [b"\x0a", b"\x0a\x02a", b"\x0a\x01ab", b"\x12\x01a", b"\x0a\x80\x80\x80\x80\x80\x01a"],
)
def test_other_messages_are_refused(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        data_of(message)


def test_a_long_path_for_temporary_files_does_not_keep_sockets_from_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = Folder()
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(folder.socket)
            listening.listen()
            for abstract in (False, ABSTRACT):
                ours, name = folder.connect(abstract=abstract)
                ours.close()
                folder.forget(name)
        assert [path.name for path in Path(folder.path).iterdir()] == ["s"]
    finally:
        folder.remove()
        folder.remove()
    assert not Path(folder.path).exists()


class Messages:
    """A call in memory: each message is written when the test says so."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[object] = asyncio.Queue()
        self.written: list[bytes] = []
        self.taking = asyncio.Semaphore(0)

    async def read(self) -> object:
        return await self.coming.get()

    async def write(self, message: bytes) -> None:
        await self.taking.acquire()
        self.written.append(message)


class Hearing:
    """A sink that keeps what it is given, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.data = b""
        self.rooms = 0
        self.error = error
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def destination(self) -> memoryview | None:
        return None

    def filled(self, count: int) -> None:
        raise AssertionError

    def take(self, data: memoryview) -> None:
        if self.error is not None:
            raise self.error
        self.data += data

    def writable(self) -> None:
        self.rooms += 1

    def ended(self, reason: str) -> None:
        self.end.set_result(reason)


def pipe_over(messages: Messages, sink: Hearing) -> tuple[GrpcPipe, asyncio.Task[str | None]]:
    pipe = GrpcPipe(messages, Presented("grpc", "somewhere:1"))
    pipe.start(sink)
    return pipe, asyncio.create_task(pipe.carry())


def test_all_that_waits_leaves_as_one_message() -> None:
    async def main() -> None:
        messages = Messages()
        pipe, carrying = pipe_over(messages, Hearing())
        for number in range(100):
            pipe.write([b"%02d" % number, memoryview(b";")])
        messages.taking.release()
        pipe.close()
        assert await carrying is None
        assert len(messages.written) == 1
        text = b"".join(b"%02d;" % number for number in range(100))
        assert data_of(messages.written[0]) == text

    asyncio.run(main())


def test_messages_are_bounded_and_a_pipe_says_when_it_holds_enough() -> None:
    async def main() -> None:
        messages = Messages()
        sink = Hearing()
        pipe, carrying = pipe_over(messages, sink)
        large = bytes(range(256)) * (MESSAGE_BYTES // 256) * 2 + b"end"
        assert pipe.is_writable
        pipe.write([b"first", large])
        assert not pipe.is_writable
        pipe.close()
        for _ in range(3):
            messages.taking.release()
        assert await carrying is None
        data = [bytes(data_of(message)) for message in messages.written]
        assert b"".join(data) == b"first" + large
        assert [len(piece) for piece in data] == [MESSAGE_BYTES, MESSAGE_BYTES, 8]
        assert sink.rooms == 1
        assert not pipe.is_writable
        assert await sink.end == "closed"

    asyncio.run(main())


def test_nothing_is_handed_over_while_a_pipe_is_paused() -> None:
    async def main() -> None:
        messages = Messages()
        sink = Hearing()
        pipe, carrying = pipe_over(messages, sink)
        pipe.pause()
        messages.coming.put_nowait(head(1) + b"a")
        messages.coming.put_nowait("the end")
        for _ in range(5):
            await asyncio.sleep(0)
        assert sink.data == b""
        assert not sink.end.done()
        pipe.resume()
        assert await carrying is None
        assert sink.data == b"a"
        assert await sink.end == "closed by the peer"

    asyncio.run(main())


def test_a_pipe_that_is_aborted_before_it_carries_ends_at_once() -> None:
    async def main() -> None:
        sink = Hearing()
        pipe = GrpcPipe(Messages(), Presented("grpc", "somewhere:1"))
        pipe.abort()
        assert await pipe.carry() == "broken off"
        pipe.start(sink)
        assert await sink.end == "broken off"

    asyncio.run(main())


def test_a_sink_that_raises_is_told_of_and_ends_the_pipe() -> None:
    async def main() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(context["exception"])
        )
        messages, fault = Messages(), ZeroDivisionError()
        _, carrying = pipe_over(messages, Hearing(fault))
        messages.coming.put_nowait(head(1) + b"a")
        assert await carrying == "the call was cancelled"
        assert told == [fault]

    asyncio.run(main())
