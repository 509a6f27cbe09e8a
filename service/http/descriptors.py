"""How many connections the process's file descriptors are enough for."""

from __future__ import annotations

import contextlib
import resource

WANTED_DESCRIPTORS = 65_536
OWN_DESCRIPTORS = 64
"""The event loop, the log, sockets to workers and compute process, and some to spare."""
DESCRIPTORS_OF_CONNECTION = 2
"""Its socket, and shared memory: its unfinished upload, or the answer that it is taking."""
DESCRIPTORS_OF_REQUEST = 5
"""The upload, pixels, state, logits and body of one request in shared memory."""
LEAST_CONNECTIONS = 16


def most_connections(wanted: int, most_requests: int) -> int:
    """Raise the process's limit of descriptors as far as allowed, and share them out.

    Args:
        wanted: connections that the operator allows.
        most_requests: requests that may be inside at a time.

    Returns:
        Connections that may be open at a time.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(WANTED_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
            soft = enough
    if soft == resource.RLIM_INFINITY:
        return wanted
    # A request needs its connection as well; half of them at least are left for those who ask.
    free = soft - OWN_DESCRIPTORS
    inside = min(DESCRIPTORS_OF_REQUEST * most_requests, free // 2)
    most = (free - inside) // DESCRIPTORS_OF_CONNECTION
    return max(LEAST_CONNECTIONS, min(wanted, most))
