"""Shared memory between the front and its workers: sealed memory files, passed as descriptors.

A picture passes from one worker to another without a copy, and the front never maps it. The seals
forbid every later change, even by the process that wrote it. So a worker can neither truncate
memory that another has mapped (which would end that one by SIGBUS) nor change pixels after they
were checked. It needs no `/dev/shm`, which containers limit to 64 MB.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import threading
from collections.abc import Iterable

from service.workers.memory_release import close_memory

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NOT_EXECUTABLE = 0x0008  # MFD_NOEXEC_SEAL of linux/memfd.h; Linux 6.3


_counting = threading.RLock()  # the garbage collector may close one while another is counted


class BlobError(ValueError):
    """A descriptor is not sealed memory."""


class Blob:
    """Sealed, unchangeable bytes in shared memory, known by a file descriptor.

    Its owner closes it; the memory is freed when no process holds it. The garbage collector closes
    a forgotten one.
    """

    held_bytes = 0
    """Bytes of all blobs that this process holds."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        """Take ownership of the descriptor; use `of` or `received` to make a blob."""
        self._descriptor = descriptor
        self.size_bytes = size_bytes
        _count(size_bytes)

    @classmethod
    def of(cls, *pieces: bytes | bytearray | memoryview) -> Blob:
        """Write pieces, one after another, into shared memory.

        Raises:
            OSError: no memory or no descriptor is available.
        """
        return cls.of_pieces(pieces)

    @classmethod
    def of_pieces(cls, pieces: Iterable[bytes | bytearray | memoryview]) -> Blob:
        """Write pieces like `of`, for pieces that come one at a time."""
        writer = BlobWriter()
        try:
            for piece in pieces:
                writer.write(piece)
            return writer.finish()
        finally:
            writer.close()

    @classmethod
    def received(cls, descriptor: int, most_bytes: int) -> Blob:
        """Validate a descriptor from another process and take ownership of it.

        Args:
            descriptor: closed when it is refused.
            most_bytes: largest size allowed.

        Raises:
            BlobError: it is not a memory file, lacks a seal, or is too large.
        """
        try:
            return cls(descriptor, _judged_size(descriptor, most_bytes))
        except BaseException:
            os.close(descriptor)
            raise

    def duplicate(self) -> Blob:
        """Return another handle of the same memory.

        Raises:
            OSError: no descriptor is available.
        """
        return Blob(os.dup(self.fileno()), self.size_bytes)

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            ValueError: closed.
        """
        if self._descriptor < 0:
            raise ValueError("the blob is closed")
        return self._descriptor

    def read(self) -> bytes:
        """Return a copy of all bytes."""
        return self.read_at(0, self.size_bytes)

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        """Return a copy of a part, without mapping, so that reading cannot raise SIGBUS."""
        pieces: list[bytes] = []
        while size_bytes > 0:
            piece = os.pread(self.fileno(), size_bytes, offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            size_bytes -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def map(self) -> mmap.mmap:
        """Map all bytes for reading; only workers do this, never the front.

        The mapping outlives the blob. It is private, because Linux before 6.7 refuses shared
        mappings of sealed memory, even for reading.

        Raises:
            ValueError: it is empty, or closed.
            OSError: the address space is too small for it.
        """
        flags = mmap.MAP_PRIVATE | mmap.MAP_POPULATE
        return mmap.mmap(self.fileno(), self.size_bytes, flags=flags, prot=mmap.PROT_READ)

    def close(self) -> None:
        """Close the descriptor; may be called more than once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _count(-self.size_bytes)
            close_memory(descriptor, self.size_bytes)

    def __enter__(self) -> Blob:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Close a forgotten blob."""
        self.close()


def _count(size_bytes: int) -> None:
    with _counting:
        Blob.held_bytes += size_bytes


class BlobWriter:
    """Shared memory that is being filled, for instance by an arriving upload.

    Attributes:
        size_bytes: bytes written so far.
    """

    def __init__(self) -> None:
        """Start empty.

        Raises:
            OSError: no descriptor is available.
        """
        self._descriptor = _new_memory_file()
        self.size_bytes = 0

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            OSError: no memory is available, or the process's limit of file sizes is reached.
        """
        rest = memoryview(piece).cast("B")
        while rest:
            written = os.write(self._descriptor, rest)
            self.size_bytes += written
            rest = rest[written:]

    def finish(self) -> Blob:
        """Seal the written bytes and return them; this closes the writer."""
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, SEALS)
        descriptor, self._descriptor = self._descriptor, -1
        return Blob(descriptor, self.size_bytes)

    def close(self) -> None:
        """Drop the written bytes, unless `finish` was called."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            close_memory(descriptor, self.size_bytes)


def _new_memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("picture", flags | _NOT_EXECUTABLE)
    except OSError as error:
        if error.errno != errno.EINVAL:  # kernels before 6.3 lack the flag
            raise
        return os.memfd_create("picture", flags)


def _judged_size(descriptor: int, most_bytes: int) -> int:
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise BlobError("the descriptor is no memory file") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise BlobError("the descriptor is no memory file")
    if seals & SEALS != SEALS:
        raise BlobError("the shared memory is not sealed")
    if status.st_size > most_bytes:
        raise BlobError(f"the shared memory holds {status.st_size} bytes, {most_bytes} are allowed")
    return status.st_size
