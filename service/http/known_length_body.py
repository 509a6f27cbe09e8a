"""Pieces of a body whose length was announced, passed on without parsing them.

Between the head of a request and the last byte of such a body nothing is left to parse. h11 copies
each piece four times all the same. So only head, last piece and chunked bodies go through h11.
`benchmarks.service.front_costs` measures what an upload takes.
"""

from __future__ import annotations

import h11
from h11._readers import ContentLengthReader
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from service.http.half_closed import HalfClosedConnection


class KnownLengthBodyConnection(HalfClosedConnection):
    """uvicorn's HTTP/1.1 connection, faster for uploads."""

    def data_received(self, data: bytes) -> None:
        """Receive bytes."""
        reader = self._reader_of_body(data)
        if reader is None:
            super().data_received(data)
            return
        reader._remaining -= len(data)
        if self.conn.our_state is h11.DONE:
            return  # the answer did not wait for it
        self.cycle.body += data
        if len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def _reader_of_body(self, data: bytes) -> ContentLengthReader | None:
        """Return the body's counter, if a piece is all body and more of the body follows.

        h11 handles the end of the body, which changes the state of the connection.
        """
        connection = self.conn
        if connection.their_state is not h11.SEND_BODY:
            return None
        reader = connection._reader
        if not isinstance(reader, ContentLengthReader) or len(data) >= reader._remaining:
            return None
        has_more = connection._receive_buffer or connection.they_are_waiting_for_100_continue
        return None if has_more else reader
