"""An answer whose bytes count as held until its caller has read it, or is gone."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.http.answer_pieces import send_body
from service.pipeline.held_answer import HeldAnswer
from service.workers.shared_memory import Blob


class HeldResponse(Response):
    """Sends an answer from the shared memory of its worker, and then releases it."""

    def __init__(
        self, answer: HeldAnswer, hold: Callable[[int], Callable[[], None]], vary: str | None
    ) -> None:
        """Count the answer's bytes.

        Args:
            answer: what to send; closed afterwards.
            hold: counts bytes as held and returns the function that releases them.
            vary: value of the header `Vary`; None for no such header.
        """
        facts, body = answer.facts, answer.body
        headers = dict(facts.headers) | {"Content-Length": str(body.size_bytes)}
        if vary is not None:
            headers["Vary"] = vary
        super().__init__(headers=headers, media_type=facts.media_type)
        self._held = body
        # Also if it is never sent, because its caller has left.
        self._give_back = weakref.finalize(self, _give_back, body, hold(body.size_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; return when the connection has accepted it, or is gone."""
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await send_body(send, self._held)
        finally:
            self._give_back()


def _give_back(body: Blob, uncount: Callable[[], None]) -> None:
    body.close()
    uncount()
