"""A descriptor that one thread makes readable to wake another that also waits for a socket."""

from __future__ import annotations

import contextlib
import os


class WakeUp:
    """Wakes the thread that watches; calls while no thread watches cost no system call.

    The watcher must look for work after `watch`: work added before did not wake it, work added
    later does.
    """

    def __init__(self) -> None:
        """Make the descriptors."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._is_watched = False

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._reader

    def watch(self) -> None:
        """Begin to watch: from now on calls make the descriptor readable."""
        self._is_watched = True

    def ignore(self) -> None:
        """Stop watching, and forget past calls."""
        self._is_watched = False
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 65536)

    def call(self) -> None:
        """Wake the watcher."""
        if self._is_watched:
            with contextlib.suppress(BlockingIOError):  # its buffer is full of calls
                os.write(self._writer, b"\0")

    def __del__(self) -> None:
        """Close the descriptors."""
        os.close(self._reader)
        os.close(self._writer)
