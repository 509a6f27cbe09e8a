"""One end of a socket in the front's event loop: frames are sent and received without blocking."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable

from service.workers.framing import Frame, FrameError, FrameReader, encode

_MOST_LAST_READS = 64
"""Most reads after the other side has ended, more than the largest answer takes."""


class Channel:
    """A socket to the template or to a worker.

    `on_frame` gets each frame and owns its descriptors. `on_end` is called once: with None if the
    other side is gone, or with the error in its messages.
    """

    def __init__(
        self,
        connection: socket.socket,
        on_frame: Callable[[Frame], None],
        on_end: Callable[[FrameError | None], None],
    ) -> None:
        """Take ownership of the socket and start reading in the running event loop."""
        connection.setblocking(False)
        self._connection = connection
        self._on_frame = on_frame
        self._on_end = on_end
        self._reader = FrameReader()
        self._unsent: deque[_Unsent] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._loop.add_reader(connection.fileno(), self._read_once)

    def send(self, frame: Frame) -> bool:
        """Send a frame, now or as soon as the other side accepts it; False if it is gone.

        The caller may close the frame's descriptors when this returns.

        Raises:
            FrameError: it is too large.
            OSError: no descriptor is available.
        """
        unsent = _Unsent(encode(frame), frame.descriptors)
        if not self._is_open:
            return False
        if self._unsent or not unsent.is_sent_through(self._connection):
            unsent.keep_descriptors()
            self._unsent.append(unsent)
            self._loop.add_writer(self._connection.fileno(), self._send_rest)
        return not unsent.was_refused

    def read_last(self) -> None:
        """Read the last messages of a side that has ended."""
        for _ in range(_MOST_LAST_READS):
            if not self._read_once():
                return

    def close(self) -> None:
        """End both directions, without a call of `on_end`."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._connection.fileno())
            self._loop.remove_writer(self._connection.fileno())
            self._connection.close()
            self._reader.close()
            for unsent in self._unsent:
                unsent.close()
            self._unsent.clear()

    def _read_once(self) -> bool:
        """Read a piece and pass on its frames; False if there was none."""
        if not self._is_open:
            return False
        try:
            is_there = self._reader.fill(self._connection)
            while self._is_open:
                frame = self._reader.next_frame()
                if frame is None:
                    break
                self._on_frame(frame)
        except (BlockingIOError, InterruptedError):
            return False
        except FrameError as error:
            self.close()
            self._on_end(error)
            return False
        except OSError:
            is_there = False
        if not is_there and self._is_open:
            self.close()
            self._on_end(None)
        return is_there

    def _send_rest(self) -> None:
        while self._unsent and self._unsent[0].is_sent_through(self._connection):
            self._unsent.popleft().close()
        if not self._unsent and self._is_open:
            self._loop.remove_writer(self._connection.fileno())


class _Unsent:
    """A frame that is not yet wholly sent."""

    def __init__(self, data: bytes, descriptors: tuple[int, ...]) -> None:
        self._rest = memoryview(data)
        self._descriptors = descriptors
        self._is_kept = False
        self.was_refused = False

    def is_sent_through(self, connection: socket.socket) -> bool:
        """Send as much as the socket accepts; return whether nothing is left."""
        try:
            while self._rest:
                if self._descriptors:
                    sent = socket.send_fds(connection, [self._rest], list(self._descriptors))
                    self.close()  # they go with the first byte
                else:
                    sent = connection.send(self._rest)
                self._rest = self._rest[sent:]
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:  # the other side is gone
            self.was_refused = True
        return True

    def keep_descriptors(self) -> None:
        """Duplicate the descriptors, so that the caller can close its own."""
        self._descriptors = tuple(os.dup(each) for each in self._descriptors)
        self._is_kept = True

    def close(self) -> None:
        """Close the descriptors."""
        if self._is_kept:
            for descriptor in self._descriptors:
                os.close(descriptor)
        self._descriptors = ()
