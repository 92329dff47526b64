from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from covey.actors.downloads.blobs import RID_BYTES, Blob, BlobRef, Blobs
from covey.actors.downloads.errors import BadBlob, UnknownBlob
from covey.transport import Registry

linux = pytest.mark.skipif(sys.platform != "linux", reason="sealed memory files are Linux'")


def sealed(data: bytes, seals: int = 0xF) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, 1033, seals)
    return fd


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_bytes_in_memory_are_taken_without_a_copy() -> None:
    data = bytearray(b"abcd")
    with Blob.of_bytes(data) as blob:
        assert (bytes(blob.buffer), blob.size, blob.path) == (b"abcd", 4, None)
        assert blob.buffer.readonly
        data[0] = ord("x")
        assert blob.buffer[0] == ord("x")


def test_a_file_stays_readable_when_it_is_renamed_or_unlinked(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"abcd")
    with Blob.of_file(path) as blob:
        path.rename(tmp_path / "other").unlink()
        assert blob.path == path
        assert bytes(blob.buffer) == b"abcd"


def test_an_empty_file_is_an_empty_blob(tmp_path: Path) -> None:
    (tmp_path / "blob").touch()
    with Blob.of_file(tmp_path / "blob") as blob:
        assert (blob.size, bytes(blob.buffer)) == (0, b"")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBlob, match="No such file"):
        Blob.of_file(tmp_path / "nothing")
    with pytest.raises(BadBlob, match="not a regular file"):
        Blob.of_file(tmp_path)


@linux
def test_a_sealed_memory_file_is_mapped_and_its_descriptor_closed() -> None:
    fd = sealed(b"abcd")
    with Blob.of_fd(fd, 4) as blob:
        assert bytes(blob.buffer) == b"abcd"
        assert not is_open(fd)


@linux
@pytest.mark.parametrize("missing", [0x1, 0x2, 0x4, 0x8])
def test_a_missing_seal_is_refused(missing: int) -> None:
    fd = sealed(b"abcd", 0xF & ~missing)
    with pytest.raises(BadBlob, match="not sealed against every change"):
        Blob.of_fd(fd)
    assert not is_open(fd)


@linux
def test_another_size_or_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBlob, match="has 4 bytes, 5 were announced"):
        Blob.of_fd(sealed(b"abcd"), 5)
    (tmp_path / "blob").write_bytes(b"abcd")
    with pytest.raises(BadBlob, match="sealed"):
        Blob.of_fd(os.open(tmp_path / "blob", os.O_RDONLY))
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(BadBlob, match="sealed"):
        Blob.of_fd(reading)


def test_without_sealing_the_content_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    (tmp_path / "blob").write_bytes(b"abcd")
    with Blob.of_fd(os.open(tmp_path / "blob", os.O_RDONLY), 4) as blob:
        (tmp_path / "blob").write_bytes(b"----")
        assert bytes(blob.buffer) == b"abcd"


def test_views_outlive_the_blob_they_were_taken_of(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    blob = Blob.of_file(path)
    view = np.frombuffer(blob.buffer, np.float32)
    blob.close()
    blob.close()
    assert view.tolist() == [0, 1, 2, 3]
    assert blob.size == 16
    with pytest.raises(BadBlob, match="closed"):
        _ = blob.buffer


def test_a_table_holds_blobs_until_they_are_released() -> None:
    blobs = Blobs()
    blob = Blob.of_bytes(b"abcd")
    rid = blobs.register(blob)
    other = blobs.register(Blob.of_bytes(b"ef"))
    assert len(rid) == len(other) == RID_BYTES
    assert rid != other
    assert blobs.open(rid) is blob
    assert blobs.ref(rid) == BlobRef(rid, 4)
    statistics = blobs.statistics()
    assert (statistics.held, statistics.held_bytes, statistics.registered) == (2, 6, 2)
    blobs.release(rid)
    blobs.release(rid)
    with pytest.raises(UnknownBlob) as caught:
        blobs.open(rid)
    assert rid.hex() not in str(caught.value)
    with pytest.raises(BadBlob, match="closed"):
        _ = blob.buffer
    assert blobs.statistics().released == 1
    blobs.close()
    assert blobs.statistics().held == 0


def test_a_reference_survives_the_wire() -> None:
    registry = Registry(BlobRef)
    ref = BlobRef(bytes(32), 7)
    assert registry.unpack(*registry.pack(ref)) == ref
