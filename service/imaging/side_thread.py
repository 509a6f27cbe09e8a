"""A second thread that does half of a large picture, if a core is idle.

Cores are idle while one caller is served alone: the model has just finished, and one thread
deflates. Where cores are mostly idle, Linux wakes a thread on the core of the thread that woke it,
and both take turns there. On 2 cores, of which one was idle, halves of an overlay took 4.9 ms by
two threads, as long as by one. Kept away from that core, the second thread runs on the other one:
3.1 ms. Its scheduling class is "idle", so that it gets nothing of a core on which the model or
another caller's work runs. The calling thread does both halves then.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Here = TypeVar("Here")
There = TypeVar("There")


def in_turn(here: Callable[[], Here], there: Callable[[], There]) -> tuple[Here, There]:
    """Do one after the other, in the calling thread."""
    return here(), there()


@functools.cache
def side_thread() -> SideThread:
    """Return the one side thread of this process, made at the first call."""
    return SideThread()


class SideThread:
    """One thread that takes the second of two pieces of work."""

    def __init__(self) -> None:
        """Make the thread; it starts with the first piece."""
        self._thread_id: int | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="side", initializer=self._begin)
        self._current_core = _current_core_reader()

    def both(self, here: Callable[[], Here], there: Callable[[], There]) -> tuple[Here, There]:
        """Do `there` in the side thread while the calling thread does `here`.

        Where the side thread has not begun by the time `here` is done, because it is busy with
        another caller's piece, or because there is one core only, the calling thread does both.
        So does the side thread itself, for a piece of a piece.

        Args:
            here: what the calling thread does; the longer piece.
            there: what the side thread does; must not touch what `here` changes.

        Returns:
            What they returned. The first error of the two is raised.
        """
        if threading.get_native_id() == self._thread_id or not self._go_elsewhere():
            return in_turn(here, there)
        try:
            beside = self._pool.submit(there)
        except RuntimeError:  # closed
            return in_turn(here, there)
        try:
            result = here()
        except BaseException:
            beside.cancel()
            raise
        if beside.cancel():
            return result, there()
        self._go_anywhere()  # this core is free now, and the other one may be taken
        return result, beside.result()

    def close(self) -> None:
        """End the thread; a piece that has not begun is done by its caller."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self) -> None:
        self._thread_id = threading.get_native_id()
        if hasattr(os, "SCHED_IDLE"):
            with contextlib.suppress(OSError):  # a container may forbid it
                os.sched_setscheduler(self._thread_id, os.SCHED_IDLE, os.sched_param(0))

    def _go_elsewhere(self) -> bool:
        """Keep the side thread off the caller's core; False when there is no other core."""
        if self._current_core is None:  # not Linux: its scheduler decides
            return (os.cpu_count() or 1) > 1
        others = os.sched_getaffinity(0) - {self._current_core()}
        self._allow(others)
        return bool(others)

    def _go_anywhere(self) -> None:
        if self._current_core is not None:
            self._allow(os.sched_getaffinity(0))

    def _allow(self, cores: set[int]) -> None:
        if cores and self._thread_id is not None:
            with contextlib.suppress(OSError):  # a container may forbid it
                os.sched_setaffinity(self._thread_id, cores)


def _current_core_reader() -> Callable[[], int] | None:
    """Return glibc's `sched_getcpu`; None where there is no such function."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    reader: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return reader
