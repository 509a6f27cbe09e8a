"""Large copies leave the event loop free, and are right however their caller ends."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from service.workers.shared_memory import Blob
from service.workers.sharing import LARGE_BYTES, copy_of, share


@pytest.mark.parametrize("size_bytes", [0, 10, LARGE_BYTES, 3 * LARGE_BYTES + 1])
def test_bytes_come_back_as_they_were_shared(size_bytes: int) -> None:
    data = os.urandom(size_bytes)

    async def test() -> None:
        with await share(data) as blob:
            assert await copy_of(blob) == data

    asyncio.run(test())
    assert Blob.held_bytes == 0


def test_a_caller_who_leaves_during_a_large_copy_leaves_nothing_behind() -> None:
    data = bytes(32 * LARGE_BYTES)

    async def test() -> None:
        for delay_s in (0.0, 0.001, 0.01):
            sharing = asyncio.ensure_future(share(data))
            await asyncio.sleep(delay_s)
            sharing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await sharing).close()
        with await share(data) as blob:
            copying = asyncio.ensure_future(copy_of(blob))
            await asyncio.sleep(0)
            copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)

    asyncio.run(test())  # waits for the threads
    assert Blob.held_bytes == 0
