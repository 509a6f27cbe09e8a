"""One HTTP connection, with an end for callers who keep it busy without sending or reading.

uvicorn waits forever for the rest of a request's headers and for a caller to take its answer. A few
hundred such connections ("slowloris") would use up the process's file descriptors.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class BoundedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 connection with two clocks; `bounded_connection` sets their times."""

    header_timeout_s: float
    """Seconds for the request line and all headers, counted from their first chance to come."""
    answer_timeout_s: float
    """Seconds without a byte taken by a caller who is being answered."""

    _head_clock: asyncio.TimerHandle | None = None
    _answer_clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock: a connection is made to send something."""
        super().connection_made(transport)
        self._start_head_clock()

    def data_received(self, data: bytes) -> None:
        """Takes bytes; those of an unfinished head never set the clock back."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0] == b"":
            self._stop_head_clock()
        elif self._head_clock is None:
            self._start_head_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops both clocks."""
        self._stop_head_clock()
        self._stop_answer_clock()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The caller takes the answer more slowly than it comes."""
        super().pause_writing()
        self._watch_answer(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The caller has taken what waited."""
        self._stop_answer_clock()
        super().resume_writing()

    def _start_head_clock(self) -> None:
        self._head_clock = self.loop.call_later(self.header_timeout_s, self._refuse_slow_head)

    def _stop_head_clock(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def _refuse_slow_head(self) -> None:
        self._head_clock = None
        if self.conn.trailing_data[0] != b"":  # who has sent nothing at all gets no answer
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
            self.transport.abort()


def bounded_connection(header_timeout_s: float, answer_timeout_s: float) -> type[BoundedConnection]:
    """Returns the class of connections with these times, which uvicorn makes instances of.

    Args:
        header_timeout_s: seconds for the head of a request.
        answer_timeout_s: seconds in which a caller must take something of its answer.
    """
    times = {"header_timeout_s": header_timeout_s, "answer_timeout_s": answer_timeout_s}
    return type("Connection", (BoundedConnection,), times)
