"""Settings of the C library for the memory of freed images.

glibc gives each thread its own arena, and each keeps freed memory for its next image. So the
serving process grew at unpredictable moments. One arena for all threads, with fixed limits, keeps
its size after the first large images (`python -m benchmarks.service.load`). Returning all memory
immediately would cost time in each request, because pages must be cleared and mapped again.
"""

from __future__ import annotations

import ctypes

_ARENA_MAX, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -8, -1, -3  # malloc.h of glibc
KEPT_BYTES = 64 * 1024 * 1024
OWN_MAPPING_BYTES = 32 * 1024 * 1024
"""Larger blocks are returned to the system as soon as they are freed."""


def give_back_free_memory() -> bool:
    """Return the memory that is free now to the system.

    Returns:
        Whether anything was returned.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))


def keep_one_heap() -> bool:
    """Use one arena for the whole process; call it before other threads start.

    Returns:
        Whether it took effect: False if the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_ARENA_MAX, 1), (_TRIM_THRESHOLD, KEPT_BYTES), (_MMAP_THRESHOLD, OWN_MAPPING_BYTES))
    return all([mallopt(option, value) == 1 for option, value in wanted])
