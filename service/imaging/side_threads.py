"""Further threads that do parts of a large picture, if cores are idle.

With a single caller, cores are idle while one thread deflates the answer. If cores are mostly idle,
Linux wakes a thread on the core of the thread that woke it, and both take turns there, so two
threads gain nothing. So these threads are kept off the caller's core. Their scheduling class is
"idle", so they never take a core from the model or another caller's work. In that case the calling
thread does every piece.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Here = TypeVar("Here")
There = TypeVar("There")
Piece = TypeVar("Piece")

MOST_THREADS = 3
CORES_PER_THREAD = 4


def in_turn(here: Callable[[], Here], there: Callable[[], There]) -> tuple[Here, There]:
    """Do both in turn, in the calling thread."""
    return here(), there()


@functools.cache
def side_threads() -> SideThreads:
    """Return the side threads of this process, made at the first call.

    There is one thread for each `CORES_PER_THREAD` cores, and at least one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return SideThreads(min(MOST_THREADS, max(1, (cores or 1) // CORES_PER_THREAD)))


class SideThreads:
    """Threads that do pieces of work beside the calling thread."""

    def __init__(self, count: int = 1) -> None:
        """Make the threads; each starts with its first piece.

        Args:
            count: number of threads beside the calling one.
        """
        self._thread_ids: set[int] = set()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="side", initializer=self._begin)
        self._current_core = _current_core_reader()

    def both(self, here: Callable[[], Here], there: Callable[[], There]) -> tuple[Here, There]:
        """Call `there` in a side thread while the calling thread calls `here`.

        If no side thread has begun when `here` is done (all are busy, or there is only one core),
        the calling thread does both. A nested call in a side thread does both there.

        Args:
            here: the longer piece, for the calling thread.
            there: the piece for a side thread; it must not touch what `here` changes.

        Returns:
            The two results. The first error of the two is raised.
        """
        beside = self._handed_over([there])
        if not beside:
            return in_turn(here, there)
        (begun,) = beside
        try:
            result = here()
        except BaseException:
            begun.cancel()
            raise
        if begun.cancel():
            return result, there()
        self._go_anywhere()  # this core is free now, and the other one may be taken
        return result, begun.result()

    def each(self, pieces: Sequence[Callable[[], Piece]]) -> list[Piece]:
        """Do all pieces, one on each idle core at a time, and return their results in order.

        The calling thread does the first piece, and then the last pieces that no side thread has
        begun.

        Args:
            pieces: pieces of work; none may touch what another changes.

        Returns:
            The results. The first error is raised.
        """
        beside = self._handed_over(pieces[1:])
        if not beside:
            return [piece() for piece in pieces]
        found: dict[int, Piece] = {}
        try:
            found[0] = pieces[0]()
            for number in range(len(pieces) - 1, 0, -1):
                if beside[number - 1].cancel():
                    found[number] = pieces[number]()
        except BaseException:
            for one in beside:
                one.cancel()
            raise
        self._go_anywhere()
        for number, one in enumerate(beside, start=1):
            if number not in found:
                found[number] = one.result()
        return [found[number] for number in range(len(pieces))]

    def close(self) -> None:
        """End the threads; callers do pieces that have not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _handed_over(self, pieces: Sequence[Callable[[], Piece]]) -> list[Future[Piece]]:
        """Hand all pieces to the side threads; an empty list when the caller must do them."""
        is_side_thread = threading.get_native_id() in self._thread_ids
        if not pieces or is_side_thread or not self._go_elsewhere():
            return []
        handed: list[Future[Piece]] = []
        try:
            for piece in pieces:
                handed.append(self._pool.submit(piece))
        except RuntimeError:  # closed; what was handed in before is cancelled with it
            for one in handed:
                one.cancel()
            return []
        return handed

    def _begin(self) -> None:
        thread_id = threading.get_native_id()
        self._thread_ids.add(thread_id)
        if hasattr(os, "SCHED_IDLE"):
            with contextlib.suppress(OSError):  # a container may forbid it
                os.sched_setscheduler(thread_id, os.SCHED_IDLE, os.sched_param(0))

    def _go_elsewhere(self) -> bool:
        """Keep the side threads off the caller's core; False when there is no other core."""
        if self._current_core is None:  # not Linux: its scheduler decides
            return (os.cpu_count() or 1) > 1
        others = os.sched_getaffinity(0) - {self._current_core()}
        self._allow(others)
        return bool(others)

    def _go_anywhere(self) -> None:
        if self._current_core is not None:
            self._allow(os.sched_getaffinity(0))

    def _allow(self, cores: set[int]) -> None:
        for thread_id in tuple(self._thread_ids) if cores else ():
            with contextlib.suppress(OSError):  # a container may forbid it
                os.sched_setaffinity(thread_id, cores)


def _current_core_reader() -> Callable[[], int] | None:
    """Return glibc's `sched_getcpu`; None where there is no such function."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    reader: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
    return reader
