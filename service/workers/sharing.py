"""Copying into and out of shared memory without blocking the event loop.

The kernel takes milliseconds to clear and fill the memory of a large upload. Meanwhile the event
loop would serve no other request. So large copies are made in a thread, without Python's lock.
"""

from __future__ import annotations

import asyncio

from service.workers.shared_memory import Blob

LARGE_BYTES = 1 << 20
"""Smaller copies are faster than a call of another thread."""


async def share(data: bytes) -> Blob:
    """Copy bytes into shared memory; the caller closes it.

    Raises:
        OSError: there is no memory or no descriptor left.
    """
    if len(data) < LARGE_BYTES:
        return Blob.of(data)
    return await asyncio.to_thread(Blob.of, data)  # cancelled: the garbage collector closes it


async def copy_of(blob: Blob) -> bytes:
    """Return a copy of all bytes of a blob, which must stay open during the call."""
    if blob.size_bytes < LARGE_BYTES:
        return blob.read()
    held = blob.duplicate()  # a cancelled caller closes its blob while the thread still reads
    return await asyncio.to_thread(_read_and_close, held)


def _read_and_close(blob: Blob) -> bytes:
    with blob:
        return blob.read()
