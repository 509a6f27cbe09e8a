"""Sends the body of an answer out of shared memory, piece by piece, and lets others run."""

from __future__ import annotations

import asyncio

from starlette.types import Send

from service.workers.shared_memory import Blob

PIECE_BYTES = 256 * 1024
"""Sent at a time; an answer may have 150 MB, and others wait while a piece is copied."""

TURN_BYTES = 4 * PIECE_BYTES
"""Sent before others have their turn. A caller that takes its answer as quickly as it is sent never
fills the connection, and nothing else would run until the last piece."""


async def send_body(send: Send, body: Blob) -> None:
    """Send a body; return when the connection has taken it, or is gone.

    Args:
        send: of a request whose head was sent.
        body: stays the caller's.
    """
    sent, more = 0, True
    while more:  # the connection would copy what does not go at once, all of it
        piece = body.read_at(sent, min(PIECE_BYTES, body.size_bytes - sent))
        sent += len(piece)
        more = sent < body.size_bytes
        await send({"type": "http.response.body", "body": piece, "more_body": more})
        if more and sent % TURN_BYTES == 0:
            await asyncio.sleep(0)
