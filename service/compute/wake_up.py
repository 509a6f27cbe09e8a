"""A descriptor that one thread makes readable to wake another, which also waits for a socket."""

from __future__ import annotations

import contextlib
import os


class WakeUp:
    """Wakes the one thread that watches; calls while nobody watches cost no system call.

    The watcher looks for what it would be woken for after `watch`: whoever puts it there before
    that did not call, and whoever does later calls.
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
        """Begin: calls from now on make the descriptor readable."""
        self._is_watched = True

    def ignore(self) -> None:
        """End, and forget calls that came."""
        self._is_watched = False
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 65536)

    def call(self) -> None:
        """Wake the watcher."""
        if self._is_watched:
            with contextlib.suppress(BlockingIOError):  # it has been called often enough
                os.write(self._writer, b"\0")

    def __del__(self) -> None:
        """Close the descriptors."""
        os.close(self._reader)
        os.close(self._writer)
