"""An answer whose bytes count as held until its caller has taken it, or is gone."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.pipeline.held_answer import HeldAnswer
from service.workers.shared_memory import Blob

PIECE_BYTES = 256 * 1024
"""Sent at a time; an answer may have 150 MB, and others wait while a piece is copied."""


class HeldResponse(Response):
    """Sends an answer out of the memory of its worker, and then gives that back."""

    def __init__(
        self, answer: HeldAnswer, hold: Callable[[int], Callable[[], None]], vary: str | None
    ) -> None:
        """Count the answer's bytes.

        Args:
            answer: what to send; closed afterwards.
            hold: counts so many bytes and returns what gives them back.
            vary: value of the header `Vary`; None for no such header.
        """
        facts, body = answer.facts, answer.body
        headers = dict(facts.headers) | {"Content-Length": str(body.size_bytes)}
        if vary is not None:
            headers["Vary"] = vary
        super().__init__(headers=headers, media_type=facts.media_type)
        self._held = body
        # Also where it is never sent, because its caller left at the last moment.
        self._give_back = weakref.finalize(self, _give_back, body, hold(body.size_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; return when the connection has taken it, or is gone."""
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            sent, size_bytes = 0, self._held.size_bytes
            more = True
            while more:  # the connection would copy what does not go at once, all of it
                piece = self._held.read_at(sent, min(PIECE_BYTES, size_bytes - sent))
                sent += len(piece)
                more = sent < size_bytes
                await send({"type": "http.response.body", "body": piece, "more_body": more})
        finally:
            self._give_back()


def _give_back(body: Blob, uncount: Callable[[], None]) -> None:
    body.close()
    uncount()
