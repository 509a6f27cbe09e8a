"""Writes lines to a descriptor without waiting for a reader that hangs.

A log driver that hangs, a pager or a stopped terminal leaves a pipe full. A plain write then waits
as long as that takes, and the event loop with it. Here a line that finds no room is refused at
once, or after a short wait from a budget that all lines share. Files always have room.

`never_wait_for_readers` gives this process descriptors of its own that never wait; without it, each
write opens one. Where the system allows none, such as a pipe of another user, the descriptor is
asked before each write. Another process may then still fill the pipe in between.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

MOST_WAITED_S = 0.02
"""Longest wait for a reader, by one line or by several in a row."""

WAITED_SHARE = 0.01
"""Share of time by which the budget for waiting grows again."""

_SHORTEST_WAIT_S = 0.001
_PIECE_BYTES = select.PIPE_BUF  # a pipe that is ready takes as much without waiting

_Write = Callable[[int, memoryview], int]


class LineWriter:
    """Writes whole lines to one descriptor; used by one thread at a time.

    Attributes:
        descriptor: where it writes.
    """

    def __init__(self, descriptor: int, now_s: Callable[[], float] = time.monotonic) -> None:
        """Write to a descriptor that stays its owner's.

        Raises:
            OSError: it is not open.
        """
        self.descriptor = descriptor
        self._write_some = _way_to_write(descriptor)
        self._now_s = now_s
        self._budget_s, self._budget_at = MOST_WAITED_S, now_s()
        self._is_stuck = False
        self._rest = memoryview(b"")

    def write(self, line: bytes) -> None:
        """Write a line, or nothing of it.

        If only a part finds room, the rest is kept and written before the next line.

        Raises:
            BlockingIOError: nobody makes room for it, or for the rest of an earlier line.
            OSError: it cannot be written.
        """
        self._push()
        self._rest = memoryview(line)
        try:
            self._push()
        except OSError:
            if len(self._rest) == len(line):
                self._rest = memoryview(b"")
                raise

    def _push(self) -> None:
        while self._rest:
            try:
                written = self._write_some(self.descriptor, self._rest)
            except BlockingIOError:
                if not self._has_room_soon():
                    self._is_stuck = True
                    raise
                continue
            self._rest, self._is_stuck = self._rest[written:], False

    def _has_room_soon(self) -> bool:
        """Wait within the budget; not at all while lines are being lost."""
        began_s = self._now_s()
        grown_s = (began_s - self._budget_at) * WAITED_SHARE
        self._budget_s, self._budget_at = min(MOST_WAITED_S, self._budget_s + grown_s), began_s
        if self._is_stuck or self._budget_s < _SHORTEST_WAIT_S:
            return False
        has_room = _is_ready(self.descriptor, self._budget_s)
        self._budget_s -= self._now_s() - began_s
        return has_room


def never_wait_for_readers() -> None:
    """Let nothing in this process wait for a reader of standard output or standard error.

    Pipes and terminals are opened a second time, so that processes that share them keep theirs as
    it is; children inherit the new ones. Prints and tracebacks that find no room are given up.
    """
    for name in ("stdout", "stderr"):
        try:
            descriptor = getattr(sys, name).fileno()
            _replace_by_own(descriptor)
            raw = _UnwaitingStream(descriptor)
        except (AttributeError, OSError, ValueError):  # absent, closed, or in memory
            continue
        stream = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)  # type: ignore[type-var]
        setattr(sys, name, stream)


class _UnwaitingStream(io.RawIOBase):
    """A raw stream that takes everything, and gives up what finds no room."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._writer = LineWriter(descriptor)
        self._lock = threading.RLock()  # a signal handler may print, too

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._writer.descriptor

    def isatty(self) -> bool:
        return os.isatty(self._writer.descriptor)

    def write(self, data: Any, /) -> int:
        text = bytes(data)
        with self._lock, contextlib.suppress(OSError):
            self._writer.write(text)
        return len(text)


def _replace_by_own(descriptor: int) -> None:
    """Open a pipe or terminal again under the same number, for this process and without waits."""
    own = _opened_again(descriptor) if _may_wait(descriptor) else None
    if own is not None:
        try:
            os.dup2(own, descriptor)
        finally:
            os.close(own)


def _opened_again(descriptor: int) -> int | None:
    """Return a descriptor of the same pipe or terminal that never waits; None if there is none."""
    if sys.platform != "linux":
        return None
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # a socket; a pipe of another user, or without a reader
        return None


def _way_to_write(descriptor: int) -> _Write:
    if not _may_wait(descriptor):
        return os.write
    return _send_at_once if stat.S_ISSOCK(os.fstat(descriptor).st_mode) else _write_if_ready


def _may_wait(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    has_reader = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
    return has_reader and os.get_blocking(descriptor)


def _send_at_once(descriptor: int, data: memoryview) -> int:
    connection = socket.socket(fileno=descriptor)
    try:
        return connection.send(data, socket.MSG_DONTWAIT)
    finally:
        connection.detach()  # the descriptor stays open


def _write_if_ready(descriptor: int, data: memoryview) -> int:
    own = _opened_again(descriptor)
    if own is None:
        if not _is_ready(descriptor, 0.0):
            raise BlockingIOError
        return os.write(descriptor, data[:_PIECE_BYTES])
    try:
        return os.write(own, data)  # a terminal that is ready may have room for less than a line
    finally:
        os.close(own)


def _is_ready(descriptor: int, timeout_s: float) -> bool:
    """Return whether a write does not wait; it fails if there is no reader any more."""
    question = select.poll()
    question.register(descriptor, select.POLLOUT)
    return bool(question.poll(timeout_s * 1000))
