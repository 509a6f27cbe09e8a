"""The number of connections that the process's file descriptors allow."""

from __future__ import annotations

import contextlib
import resource

WANTED_DESCRIPTORS = 65_536
OWN_DESCRIPTORS = 64
"""Descriptors of the event loop, the log, sockets to workers and compute process, and a reserve."""
DESCRIPTORS_OF_CONNECTION = 2
"""Descriptors of a connection: its socket, and shared memory for its unfinished upload or its
answer."""
DESCRIPTORS_OF_REQUEST = 5
"""Descriptors of a request: upload, pixels, state, logits and body in shared memory."""
LEAST_CONNECTIONS = 16


def most_connections(wanted: int, most_requests: int) -> int:
    """Raise the process's limit of descriptors as far as allowed, and divide them.

    Args:
        wanted: connections that the operator allows.
        most_requests: most requests at a time.

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
    # A request also needs its connection, so at least half of the descriptors stay for connections.
    free = soft - OWN_DESCRIPTORS
    inside = min(DESCRIPTORS_OF_REQUEST * most_requests, free // 2)
    most = (free - inside) // DESCRIPTORS_OF_CONNECTION
    return max(LEAST_CONNECTIONS, min(wanted, most))
