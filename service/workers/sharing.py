"""Copying into and out of shared memory without holding up the event loop.

The kernel takes some 3 ms to clear and fill 8 MB. For that long nobody else would be served, and
for 30 ms with the largest upload. Large copies are made in a thread, and hold no lock there.
"""

from __future__ import annotations

import asyncio

from service.workers.shared_memory import Blob

LARGE_BYTES = 1 << 20
"""What is smaller is copied sooner than a thread could be asked."""


async def share(data: bytes) -> Blob:
    """Return bytes in shared memory; the caller closes it.

    Raises:
        OSError: there is no memory or no descriptor left.
    """
    if len(data) < LARGE_BYTES:
        return Blob.of(data)
    return await asyncio.to_thread(Blob.of, data)  # cancelled: closed when it is collected


async def copy_of(blob: Blob) -> bytes:
    """Return a copy of all bytes of a blob, which must stay open meanwhile."""
    if blob.size_bytes < LARGE_BYTES:
        return blob.read()
    held = blob.duplicate()  # whoever is cancelled closes his while the thread still reads
    return await asyncio.to_thread(_read_and_close, held)


def _read_and_close(blob: Blob) -> bytes:
    with blob:
        return blob.read()
