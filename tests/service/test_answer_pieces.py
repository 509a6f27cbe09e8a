"""Answers are sent piece by piece, and others run meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.http.answer_pieces import PIECE_BYTES, TURN_BYTES, send_body
from service.workers.shared_memory import Blob

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 2 * TURN_BYTES, 2 * TURN_BYTES + 1])
async def test_all_bytes_come_in_order_and_the_last_piece_is_the_last(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with Blob.of(data[:size]) as body:
        await send_body(send, body)
    assert b"".join(message["body"] for message in sent) == data[:size]
    assert max(len(message["body"]) for message in sent) <= PIECE_BYTES
    assert [message["more_body"] for message in sent] == [True] * (len(sent) - 1) + [False]


async def test_a_caller_that_takes_everything_at_once_leaves_others_their_turns() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def taken_at_once(message: Any) -> None:
        pass

    waiting = asyncio.ensure_future(other())
    with Blob.of(bytes(10 * TURN_BYTES)) as body:
        await send_body(taken_at_once, body)
    waiting.cancel()
    assert turns >= 8
