"""Send the body of an answer from shared memory in pieces, and let other requests run."""

from __future__ import annotations

import asyncio

from starlette.types import Send

from service.workers.shared_memory import Blob

PIECE_BYTES = 256 * 1024
"""Bytes sent at a time: an answer may have 150 MB, and others wait while a piece is copied."""

TURN_BYTES = 4 * PIECE_BYTES
"""Bytes sent before other requests run. A caller that reads as fast as the answer is sent never
fills the connection, and nothing else would run until the last piece."""


async def send_body(send: Send, body: Blob) -> None:
    """Send a body; return when the connection has accepted it, or is gone.

    Args:
        send: ASGI channel of an answer whose head was sent.
        body: body of the answer, which the caller closes.
    """
    sent, more = 0, True
    while more:  # the connection would copy everything that it cannot send at once
        piece = body.read_at(sent, min(PIECE_BYTES, body.size_bytes - sent))
        sent += len(piece)
        more = sent < body.size_bytes
        await send({"type": "http.response.body", "body": piece, "more_body": more})
        if more and sent % TURN_BYTES == 0:
            await asyncio.sleep(0)
