"""Release large shared memory in a separate thread.

Freeing the pixels of a large X-ray takes the kernel milliseconds, during which the event loop would
serve no request. Several X-rays may end at the same moment.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue

LARGE_BYTES = 2 * 1024 * 1024
"""Smaller memory is freed faster than another thread could be told."""


class MemoryRelease:
    """A thread that closes descriptors and lives as long as the process."""

    def __init__(self) -> None:
        """Start the thread."""
        self._descriptors: SimpleQueue[int] = SimpleQueue()
        threading.Thread(target=self._run, name="memory-release", daemon=True).start()

    def close(self, descriptor: int) -> None:
        """Queue a descriptor to be closed."""
        self._descriptors.put(descriptor)

    def _run(self) -> None:
        while True:
            descriptor = self._descriptors.get()
            os.close(descriptor)


_release: MemoryRelease | None = None


def release_memory_in_thread() -> None:
    """Free this process's large memory in a thread from now on, to spare its event loop."""
    global _release
    _release = _release or MemoryRelease()


def close_memory(descriptor: int, size_bytes: int) -> None:
    """Close the descriptor of shared memory.

    Args:
        descriptor: descriptor with no other user.
        size_bytes: length of the shared memory.
    """
    if _release is None or size_bytes < LARGE_BYTES:
        os.close(descriptor)
    else:
        _release.close(descriptor)
