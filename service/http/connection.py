"""An HTTP connection that ends if its caller stops sending or reading.

uvicorn waits forever for the rest of a request's headers, for the rest of a body that was refused,
and for a caller to take its answer. A few hundred such connections ("slowloris") would use up the
process's file descriptors. Beyond a number of connections, a new one replaces the one that has
waited longest for the head of a request, so that callers who do send requests are answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11

from service.http.known_length_body import KnownLengthBodyConnection

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class BoundedConnection(KnownLengthBodyConnection):
    """uvicorn's HTTP/1.1 connection with two clocks; `bounded_connection` sets their times."""

    header_timeout_s: float
    """Seconds for the request line and all headers, from the moment they can be sent."""
    answer_timeout_s: float
    """Seconds without a byte read by a caller who is being answered."""
    most_connections: int
    """Most connections at a time."""
    on_unreadable: Callable[[], None]
    """Called for each request that is not HTTP."""
    on_change: Callable[[int], None]
    """Called with the number of connections when one comes or goes."""
    on_closed: Callable[[str], None]
    """Called with the reason when the service closes a connection: one of `CLOSING_REASONS`."""
    without_request: dict[BoundedConnection, None]
    """Connections that have not sent the head of a request, the oldest first."""

    _head_clock: asyncio.TimerHandle | None = None
    _rest_clock: asyncio.TimerHandle | None = None
    _answer_clock: asyncio.TimerHandle | None = None

    @property
    def awaits_request(self) -> bool:
        """Whether the connection waits for the head of its first or of a begun request."""
        return self in self.without_request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for the first request."""
        super().connection_made(transport)
        type(self).on_change(len(self.connections))
        self._start_head_clock()
        if len(self.connections) > self.most_connections:
            type(self).on_closed("room_made")
            next(iter(self.without_request)).transport.abort()  # at worst, this one

    def data_received(self, data: bytes) -> None:
        """Receive bytes; those of an unfinished head do not restart the timeout."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0] == b"":
            self._stop_head_clock()
        elif self._head_clock is None:
            self._start_head_clock()
        if self.conn.their_state is not h11.SEND_BODY:
            self._stop_rest_clock()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP, and count it."""
        type(self).on_unreadable()
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Start a timeout for the rest of a body that the answer did not wait for."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._rest_clock = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timeouts."""
        self._stop_head_clock()
        self._stop_rest_clock()
        self._stop_answer_clock()
        super().connection_lost(exc)
        type(self).on_change(len(self.connections))

    def pause_writing(self) -> None:
        """Note that the caller reads more slowly than the answer is sent."""
        super().pause_writing()
        self._watch_answer(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Note that the caller has read the waiting bytes."""
        self._stop_answer_clock()
        super().resume_writing()

    def _start_head_clock(self) -> None:
        self.without_request[self] = None
        self._head_clock = self.loop.call_later(self.header_timeout_s, self._refuse_slow_head)

    def _stop_rest_clock(self) -> None:
        if self._rest_clock is not None:
            self._rest_clock.cancel()
            self._rest_clock = None

    def _stop_head_clock(self) -> None:
        self.without_request.pop(self, None)
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def _refuse_slow_head(self) -> None:
        self._head_clock = None
        type(self).on_closed("header_timeout")
        if self.conn.trailing_data[0] != b"":  # a caller who has sent nothing gets no answer
            self.transport.write(_TOO_SLOW)
        self.transport.close()

    def _watch_answer(self, waiting_bytes: int) -> None:
        self._answer_clock = self.loop.call_later(
            self.answer_timeout_s, self._end_stuck_answer, waiting_bytes
        )

    def _stop_answer_clock(self) -> None:
        if self._answer_clock is not None:
            self._answer_clock.cancel()
            self._answer_clock = None

    def _end_stuck_answer(self, waited_bytes: int) -> None:
        waiting_bytes = self.transport.get_write_buffer_size()
        if waiting_bytes < waited_bytes:
            self._watch_answer(waiting_bytes)
        else:
            type(self).on_closed("answer_timeout")
            self.transport.abort()


def bounded_connection(
    header_timeout_s: float,
    answer_timeout_s: float,
    most_connections: int = 2**31,
    on_unreadable: Callable[[], None] = lambda: None,
    on_change: Callable[[int], None] = lambda count: None,
    on_closed: Callable[[str], None] = lambda reason: None,
) -> type[BoundedConnection]:
    """Return a class of connections with these bounds, for uvicorn.

    Args:
        header_timeout_s: seconds for the head of a request.
        answer_timeout_s: seconds in which a caller must read some of its answer.
        most_connections: most connections at a time.
        on_unreadable: called for each request that is not HTTP.
        on_change: called with the number of connections when one comes or goes.
        on_closed: called with the reason when the service closes a connection.
    """
    bounds = {
        "header_timeout_s": header_timeout_s,
        "answer_timeout_s": answer_timeout_s,
        "most_connections": most_connections,
        "on_unreadable": staticmethod(on_unreadable),
        "on_change": staticmethod(on_change),
        "on_closed": staticmethod(on_closed),
        "without_request": {},
    }
    return type("Connection", (BoundedConnection,), bounds)
