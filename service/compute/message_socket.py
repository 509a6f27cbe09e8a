"""Messages over a socket pair: a small pickled header, then raw pieces, in few system calls.

Each system call releases Python's global lock, and another thread may keep it for milliseconds. So
a message of any size takes one call to send and two to receive; `multiprocessing.Connection` takes
four or more for each piece.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

_PREFIX = struct.Struct("<IQ")  # bytes of the header, bytes of the whole message
_MOST_BUFFERS = 512
"""Most pieces in one call to send; Linux takes 1,024."""


class MessageSocket:
    """One end, and a context manager that closes it. One thread may send while another receives."""

    def __init__(self, connection: socket.socket) -> None:
        """Take ownership of the socket."""
        self._connection = connection

    def send(self, content: Any, pieces: Sequence[bytes | memoryview] = ()) -> None:
        """Send a message.

        Args:
            content: anything that can be pickled.
            pieces: raw bytes beside it.

        Raises:
            OSError: the other side is gone.
        """
        header = pickle.dumps((content, [len(piece) for piece in pieces]), pickle.HIGHEST_PROTOCOL)
        total = len(header) + sum(map(len, pieces))
        rest = [memoryview(one) for one in (_PREFIX.pack(len(header), total), header, *pieces)]
        while rest:
            sent = self._connection.sendmsg(rest[:_MOST_BUFFERS])
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = rest[0][sent:]

    def receive(self) -> tuple[Any, list[bytes]]:
        """Wait for a message; return its content and its pieces.

        Raises:
            EOFError: the other side is gone.
            OSError: likewise.
        """
        header_bytes, total = _PREFIX.unpack(self._exactly(_PREFIX.size))
        data = memoryview(self._exactly(total))
        content, sizes = pickle.loads(data[:header_bytes])
        pieces, start = [], header_bytes
        for size in sizes:
            pieces.append(bytes(data[start : start + size]))
            start += size
        return content, pieces

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 when it is closed."""
        return self._connection.fileno()

    def close(self) -> None:
        """End both directions."""
        self._connection.close()

    def __enter__(self) -> MessageSocket:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _exactly(self, size_bytes: int) -> bytearray:
        data = bytearray(size_bytes)
        rest = memoryview(data)
        while rest:
            count = self._connection.recv_into(rest, len(rest), socket.MSG_WAITALL)
            if not count:
                raise EOFError("the other side is gone")
            rest = rest[count:]
        return data
