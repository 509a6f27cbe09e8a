"""An answer whose bytes count as held until its caller has taken it, or is gone."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.imaging.answer_data import RenderedAnswer

PIECE_BYTES = 256 * 1024
"""Sent at a time; an answer may have 150 MB, and others wait while a piece is copied."""


class HeldResponse(Response):
    """Sends an answer and then gives its bytes back."""

    def __init__(
        self, answer: RenderedAnswer, hold: Callable[[int], Callable[[], None]], vary: str | None
    ) -> None:
        """Count the answer's bytes.

        Args:
            answer: what to send.
            hold: counts so many bytes and returns what gives them back.
            vary: value of the header `Vary`; None for no such header.
        """
        headers = dict(answer.headers) | ({} if vary is None else {"Vary": vary})
        super().__init__(answer.body, media_type=answer.media_type, headers=headers)
        # Also where it is never sent, because its caller left at the last moment.
        self._give_back = weakref.finalize(self, hold(len(answer.body)))

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
            rest = memoryview(self.body)
            while True:  # the connection would copy what does not go at once, all of it
                piece, rest = bytes(rest[:PIECE_BYTES]), rest[PIECE_BYTES:]
                more = len(rest) > 0
                await send({"type": "http.response.body", "body": piece, "more_body": more})
                if not more:
                    return
        finally:
            self._give_back()
