"""Shared memory is sealed by its writer and judged by its receiver."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from pathlib import Path

import pytest

from service.workers.shared_memory import SEALS, Blob, BlobError, BlobWriter


def test_a_blob_holds_what_was_written_in_pieces() -> None:
    with Blob.of(b"one ", memoryview(b"two "), bytearray(b"three")) as blob:
        assert blob.read() == b"one two three"
        assert blob.read_at(4, 3) == b"two"
        assert blob.read_at(8, 100) == b"three"
        assert bytes(blob.map()) == b"one two three"


def test_nobody_can_change_a_blob_not_even_its_writer() -> None:
    with Blob.of(bytes(4096)) as blob:
        for change in (
            lambda: os.ftruncate(blob.fileno(), 0),
            lambda: os.ftruncate(blob.fileno(), 8192),
            lambda: os.pwrite(blob.fileno(), b"x", 0),
            lambda: mmap.mmap(blob.fileno(), 4096, mmap.MAP_SHARED),
            lambda: fcntl.fcntl(blob.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK),
        ):
            with pytest.raises(PermissionError):
                change()


def test_the_bytes_that_a_process_holds_are_counted() -> None:
    before = Blob.held_bytes
    blob = Blob.of(bytes(1000))
    with Blob.of(bytes(24)):
        assert Blob.held_bytes == before + 1024
    blob.close()
    blob.close()
    assert Blob.held_bytes == before
    forgotten = Blob.of(bytes(7))
    del forgotten
    assert Blob.held_bytes == before


def test_a_writer_that_is_not_finished_leaves_nothing() -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    writer = BlobWriter()
    writer.write(b"half")
    writer.close()
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_sealed_memory_file_is_received() -> None:
    with Blob.of(b"pixels") as blob:
        received = Blob.received(os.dup(blob.fileno()), most_bytes=6)
        assert received.read() == b"pixels"
        received.close()


@pytest.mark.parametrize("missing", ["F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE", "F_SEAL_SEAL"])
def test_memory_that_lacks_a_seal_is_refused_and_closed(missing: str) -> None:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS & ~getattr(fcntl, missing))
    refuse(descriptor, "not sealed")


def test_memory_that_is_too_large_is_refused_and_closed() -> None:
    with Blob.of(bytes(100)) as blob:
        refuse(os.dup(blob.fileno()), "100 bytes")


def test_what_is_no_memory_is_refused_and_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    refuse(os.open(tmp_path / "file", os.O_RDONLY), "memory")
    refuse(os.pipe()[0], "no memory file")
    refuse(os.open(tempfile.gettempdir(), os.O_RDONLY), "memory")
    refuse(os.open("/dev/null", os.O_RDONLY), "no memory file")


def refuse(descriptor: int, words: str) -> None:
    before = Blob.held_bytes
    with pytest.raises(BlobError, match=words):
        Blob.received(descriptor, most_bytes=99)
    with pytest.raises(OSError):
        os.fstat(descriptor)
    assert Blob.held_bytes == before
