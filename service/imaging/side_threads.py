"""Further threads that do parts of a large picture, if cores are idle.

With a single caller, cores are idle while one thread deflates the answer. If cores are mostly idle,
Linux wakes a thread on the core of the thread that woke it, and both take turns there, so two
threads gain nothing. So these threads are kept off the caller's core. Their scheduling class is
"idle", so they never take a core from the model or another caller's work. In that case the calling
thread does every piece, also one that a side thread has begun and cannot end.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Here = TypeVar("Here")
There = TypeVar("There")
Piece = TypeVar("Piece")

MOST_THREADS = 3
CORES_PER_THREAD = 4

MOST_WAITING = 8
"""Pieces, taken back or not, that no side thread has seen yet; with more, no core is ever idle."""

LEAST_PATIENCE_S = 0.02
"""A caller waits so long for a piece that has begun, and four times as long as its own took."""


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


class _Handed(Generic[Piece]):
    """A piece of work that a side thread does, unless its caller takes it back before."""

    def __init__(self, piece: Callable[[], Piece]) -> None:
        self._lock = threading.Lock()
        self._piece: Callable[[], Piece] | None = piece
        self._result: Future[Piece] = Future()

    def run(self) -> None:
        """Do the piece, in a side thread."""
        piece = self._taken()
        if piece is None:
            return
        try:
            self._result.set_result(piece())
        except BaseException as error:  # the border: the caller raises it
            self._result.set_exception(error)

    def take_back(self) -> bool:
        """Return whether the piece is its caller's again, because no side thread has begun it.

        What waits for a side thread then holds nothing of the caller's: where no core is idle, that
        may be for hours.
        """
        return self._taken() is not None

    def result(self, patience_s: float) -> Piece:
        """Return the result; raise `TimeoutError` after so many seconds."""
        return self._result.result(patience_s)

    def _taken(self) -> Callable[[], Piece] | None:
        with self._lock:
            piece, self._piece = self._piece, None
        return piece


class SideThreads:
    """Threads that do pieces of work beside the calling thread."""

    def __init__(self, count: int = 1) -> None:
        """Make the threads; each starts with its first piece.

        Args:
            count: threads beside the calling one.
        """
        self._thread_ids: set[int] = set()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="side", initializer=self._begin)
        self._lock = threading.Lock()
        self._waiting = 0
        self._current_core = _current_core_reader()

    def both(self, here: Callable[[], Here], there: Callable[[], There]) -> tuple[Here, There]:
        """Do `there` in a side thread while the calling thread does `here`.

        Where no side thread has begun by the time `here` is done, because all are busy or starved,
        or because there is only one core, the calling thread does both. So does a side thread
        itself, for a piece of a piece.

        Args:
            here: what the calling thread does; the longer piece.
            there: what a side thread does; must not touch what `here` changes. A side thread that
                has begun it may get no more processor time; the calling thread does it again then.

        Returns:
            Both results. The first error is raised.
        """
        beside = self._handed_over([there])
        if not beside:
            return in_turn(here, there)
        began_s = time.monotonic()
        try:
            result = here()
        except BaseException:
            beside[0].take_back()
            raise
        return result, self._awaited(beside[0], there, time.monotonic() - began_s)

    def each(self, pieces: Sequence[Callable[[], Piece]]) -> list[Piece]:
        """Do all pieces, as many at a time as cores are idle, and return their results in order.

        The calling thread takes the first piece, and then the last that no side thread has begun.

        Args:
            pieces: as `there` of `both`; none may touch what another changes.

        Returns:
            All results. The first error is raised.
        """
        beside = self._handed_over(pieces[1:])
        if not beside:
            return [piece() for piece in pieces]
        found: dict[int, Piece] = {}
        began_s = time.monotonic()
        try:
            found[0] = pieces[0]()
            for number in range(len(pieces) - 1, 0, -1):
                if beside[number - 1].take_back():
                    found[number] = pieces[number]()
            own_s = time.monotonic() - began_s
            for number, one in enumerate(beside, start=1):
                if number not in found:
                    found[number] = self._awaited(one, pieces[number], own_s)
        except BaseException:
            for one in beside:
                one.take_back()
            raise
        return [found[number] for number in range(len(pieces))]

    def close(self) -> None:
        """End the threads; callers do pieces that have not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _handed_over(self, pieces: Sequence[Callable[[], Piece]]) -> list[_Handed[Piece]]:
        """Hand all pieces to the side threads; an empty list when the caller must do them."""
        is_side_thread = threading.get_native_id() in self._thread_ids
        is_starved = self._waiting >= MOST_WAITING
        if not pieces or is_side_thread or is_starved or not self._go_elsewhere():
            return []
        handed = [_Handed(piece) for piece in pieces]
        for one in handed:
            try:
                with self._lock:
                    self._waiting += 1
                self._pool.submit(self._run, one)
            except RuntimeError:  # closed; the caller takes this one and the next ones back
                break
        return handed

    def _run(self, handed: _Handed[Any]) -> None:
        with self._lock:
            self._waiting -= 1
        handed.run()

    def _awaited(self, handed: _Handed[Piece], piece: Callable[[], Piece], own_s: float) -> Piece:
        """Return a piece's result, by the calling thread where a side thread cannot go on."""
        if handed.take_back():
            return piece()
        self._go_anywhere()  # this core is free now, and the other one may be taken
        try:
            return handed.result(LEAST_PATIENCE_S + 4 * own_s)
        except TimeoutError:
            return piece()

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
