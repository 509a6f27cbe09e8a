"""The number of connections that the kernel has completed and the process has not yet accepted.

Closing the port resets them, although their callers are already connected.
"""

from __future__ import annotations

import socket
import struct
from typing import Protocol

_UNACKED_OFFSET = 24
"""Offset of `tcpi_unacked` in `struct tcp_info` (linux/tcp.h): the queue of a listening port."""
_INFO_BYTES = 104


class _Listener(Protocol):
    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...


def waiting_connections(listener: _Listener) -> int:
    """Return how many connections wait to be accepted; 0 if the system does not tell.

    Args:
        listener: listening TCP socket.
    """
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return 0
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, option, _INFO_BYTES)
    except OSError:  # not TCP, or no such option in this kernel
        return 0
    if len(info) < _UNACKED_OFFSET + 4:
        return 0
    return int(struct.unpack_from("=I", info, _UNACKED_OFFSET)[0])
