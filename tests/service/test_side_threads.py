"""Pieces of work at once: results, errors, busy or closed side threads, another core."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from service.imaging.side_threads import MOST_WAITING, SideThreads, in_turn

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="cores are chosen on Linux alone"
)

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()


@pytest.fixture
def side() -> Iterator[SideThreads]:
    made = SideThreads()
    yield made
    made.close()


def test_in_turn_is_this_thread_in_this_order() -> None:
    done: list[tuple[str, int]] = []
    in_turn(
        lambda: done.append(("here", threading.get_ident())),
        lambda: done.append(("there", threading.get_ident())),
    )
    assert done == [("here", threading.get_ident()), ("there", threading.get_ident())]


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_both_run_at_once_and_give_their_results(side: SideThreads) -> None:
    met = threading.Barrier(2, timeout=60)  # broken unless both are there together
    for _ in range(3):
        here, there = side.both(
            lambda: (met.wait(), threading.get_ident())[1],
            lambda: (met.wait(), threading.get_ident())[1],
        )
        assert here == threading.get_ident() != there


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_the_side_thread_stays_off_the_core_of_its_caller(
    side: SideThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    side.both(lambda: begun.wait(60), begun.set)  # the thread is there now
    for core in sorted(CORES)[:2]:
        monkeypatch.setattr(side, "_current_core", lambda core=core: core)
        began = threading.Event()

        def here(began: threading.Event = began) -> bool:
            return began.wait(60)

        def there(began: threading.Event = began) -> set[int]:
            began.set()
            return os.sched_getaffinity(0)

        assert side.both(here, there) == (True, CORES - {core})
    assert os.sched_getaffinity(0) == CORES  # the caller itself may go anywhere


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_it_may_go_anywhere_once_the_caller_waits_and_only_where_a_core_is_idle(
    side: SideThreads,
) -> None:
    def there() -> tuple[set[int], int]:
        wait_until(lambda: os.sched_getaffinity(0) == CORES)
        return os.sched_getaffinity(0), os.sched_getscheduler(0)

    def told() -> tuple[set[int], int]:
        beside.set()
        return there()

    begun = threading.Event()
    side.both(lambda: begun.wait(60), begun.set)
    beside = threading.Event()
    _, found = side.both(lambda: beside.wait(60), told)
    assert found == (CORES, os.SCHED_IDLE)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def wait_until(condition: Callable[[], bool]) -> None:
    stop_at = time.monotonic() + 60
    while not condition() and time.monotonic() < stop_at:
        time.sleep(0.005)


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_each_runs_at_once_as_many_pieces_as_there_are_threads() -> None:
    three = SideThreads(2)
    met = threading.Barrier(3, timeout=60)  # broken unless all are there together
    pieces = [lambda: (met.wait(), threading.get_ident())[1]] * 3
    first, *others = three.each(pieces)
    three.close()
    assert first == threading.get_ident()
    assert len({first, *others}) == 3


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_each_gives_results_in_order_and_does_itself_what_nobody_has_begun(
    side: SideThreads,
) -> None:
    taken, free = threading.Event(), threading.Event()

    def there() -> int:
        taken.set()
        assert free.wait(60)
        return threading.get_ident()

    def last_of_the_caller() -> int:
        free.set()
        return threading.get_ident()

    def here() -> int:
        assert taken.wait(60)
        return threading.get_ident()

    own = threading.get_ident()
    found = side.each([here, there, last_of_the_caller, threading.get_ident])
    assert [one == own for one in found] == [True, False, True, True]
    assert side.each([lambda: 1]) == [1]
    assert side.each([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]


def test_errors_of_any_of_several_pieces_come_out(side: SideThreads) -> None:
    for number in range(3):
        pieces: list[Callable[[], int]] = [lambda: 1] * 3
        pieces[number] = fail
        with pytest.raises(ValueError, match="a piece failed"):
            side.each(pieces)


def test_one_core_does_both_itself(side: SideThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {3})
    monkeypatch.setattr(side, "_current_core", lambda: 3)
    own = threading.get_ident()
    assert side.both(threading.get_ident, threading.get_ident) == (own, own)
    assert side.each([threading.get_ident] * 3) == [own] * 3


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_a_piece_that_nobody_has_begun_is_done_by_its_caller(side: SideThreads) -> None:
    taken, free = threading.Event(), threading.Event()

    def occupy() -> None:
        taken.set()
        assert free.wait(60)

    other = threading.Thread(target=lambda: side.both(lambda: taken.wait(60), occupy))
    other.start()
    assert taken.wait(60)
    own = threading.get_ident()
    assert side.both(threading.get_ident, threading.get_ident) == (own, own)
    free.set()
    other.join(10)
    assert not other.is_alive()


class Pixels:
    """What a piece of work holds."""


@contextlib.contextmanager
def starved(side: SideThreads) -> Iterator[None]:
    """The side thread has begun a piece and gets no processor time until the end."""
    begun, goes_on = threading.Event(), threading.Event()

    def stall() -> None:
        begun.set()
        assert goes_on.wait(60)

    other = threading.Thread(target=lambda: side.both(lambda: begun.wait(60), stall))
    other.start()
    assert begun.wait(60)
    yield
    goes_on.set()
    other.join(60)


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_what_waits_for_a_starved_thread_holds_nothing_of_its_callers(side: SideThreads) -> None:
    def used(way: Callable[[Callable[[], int]], object]) -> weakref.ref[Pixels]:
        pixels = Pixels()
        way(lambda: id(pixels))
        return weakref.ref(pixels)

    with starved(side):
        held = [used(lambda piece: side.both(piece, piece)) for _ in range(20)]
        held += [used(lambda piece: side.each([piece] * 4)) for _ in range(20)]
        assert [one() for one in held] == [None] * 40
        assert side.each([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_a_starved_thread_gets_no_more_pieces_than_it_could_ever_look_at(
    side: SideThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[object] = []
    submit = side._pool.submit

    def counted(function: Callable[..., object], one: object) -> object:
        handed.append(one)
        return submit(function, one)

    with starved(side):
        monkeypatch.setattr(side._pool, "submit", counted)
        for _ in range(100):
            assert side.each([lambda: 1, lambda: 2]) == [1, 2]
        assert len(handed) == MOST_WAITING
    wait_until(lambda: side._waiting == 0)
    assert side.both(lambda: 1, lambda: 2) == (1, 2)
    assert len(handed) == MOST_WAITING + 1


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_a_piece_that_a_thread_has_begun_and_cannot_end_is_done_again_by_its_caller(
    side: SideThreads,
) -> None:
    own = threading.get_ident()
    begun, goes_on = threading.Event(), threading.Event()

    def there() -> int:
        if threading.get_ident() != own:
            begun.set()
            assert goes_on.wait(60)
        return threading.get_ident()

    assert side.both(lambda: begun.wait(60), there) == (True, own)
    goes_on.set()
    begun.clear()
    goes_on.clear()
    assert side.each([lambda: int(begun.wait(60)), there]) == [1, own]
    goes_on.set()


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_a_piece_of_a_piece_stays_in_the_side_thread(side: SideThreads) -> None:
    began = threading.Event()
    beside: list[tuple[int, int, set[int]]] = []

    def there() -> None:
        began.set()
        wait_until(lambda: os.sched_getaffinity(0) == CORES)  # its caller waits for it now
        both = side.both(threading.get_ident, threading.get_ident)
        beside.append((*both, os.sched_getaffinity(0)))

    side.both(lambda: began.wait(60), there)
    (first, second, cores) = beside[0]
    assert first == second != threading.get_ident()
    assert cores == CORES


def fail() -> NoReturn:
    raise ValueError("a piece failed")


def test_errors_of_either_piece_come_out(side: SideThreads) -> None:
    with pytest.raises(ValueError, match="a piece failed"):
        side.both(fail, lambda: 1)
    with pytest.raises(ValueError, match="a piece failed"):
        side.both(lambda: 1, fail)
    assert side.both(lambda: 1, lambda: 2) == (1, 2)


def test_after_the_end_the_caller_does_both(side: SideThreads) -> None:
    side.close()
    own = threading.get_ident()
    assert side.both(threading.get_ident, threading.get_ident) == (own, own)
    assert side.each([threading.get_ident] * 3) == [own] * 3
