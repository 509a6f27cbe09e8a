"""Answer a caller that has closed its sending side and still waits for the answer.

A closed sending side looks the same whether the caller still reads (some middleware calls
`shutdown`) or is gone. Only sending reveals the difference. So the connection sends interim
answers, which every HTTP/1.1 client skips (RFC 9110, section 15.2). If the caller is gone, its
system replies with a reset, and the next interim answer ends the connection.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PROBES_S = (0.1, 1.0)
"""Pauses after the first interim answer, in which a reset can arrive from near or far."""


class HalfClosedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, which by itself would close when the caller stops sending."""

    _probes: tuple[asyncio.TimerHandle, ...] = ()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Decide whether the connection stays open for an answer."""
        if not self._owes_answer():
            return False
        self.cycle.keep_alive = False
        self._send_interim_answer()
        self._probes = tuple(
            self.loop.call_later(after_s, self._send_interim_answer) for after_s in PROBES_S
        )
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop sending."""
        for probe in self._probes:
            probe.cancel()
        super().connection_lost(exc)

    def _owes_answer(self) -> bool:
        """Whether a whole request was received, on a connection that can be half closed."""
        return (
            self.scheme == "http"  # TLS closes both directions at once
            and self.cycle is not None
            and not self.cycle.response_complete
            and self.conn.their_state in (h11.DONE, h11.MUST_CLOSE)
            and self.conn.their_http_version != b"1.0"  # HTTP/1.0 has no interim answers
        )

    def _send_interim_answer(self) -> None:
        if self.conn.our_state is h11.SEND_RESPONSE and not self.transport.is_closing():
            answer = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self.transport.write(self.conn.send(answer))
