"""How many connections the kernel has taken for a port and the process has not accepted yet.

Closing the port resets them, although their callers believe that they are connected.
"""

from __future__ import annotations

import socket
import struct
from typing import Protocol

_UNACKED_OFFSET = 24
"""Of `tcpi_unacked` in `struct tcp_info` (linux/tcp.h); of a port that listens: its queue."""
_INFO_BYTES = 104


class _Listener(Protocol):
    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...


def waiting_connections(listener: _Listener) -> int:
    """Return how many connections wait to be accepted; 0 where the system does not say.

    Args:
        listener: a TCP socket that listens.
    """
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return 0
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, option, _INFO_BYTES)
    except OSError:  # no TCP, or no such option in this kernel
        return 0
    if len(info) < _UNACKED_OFFSET + 4:
        return 0
    return int(struct.unpack_from("=I", info, _UNACKED_OFFSET)[0])
