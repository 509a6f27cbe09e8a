"""The waiting room: exact bounds, and places that come back however a request ends."""

from __future__ import annotations

import threading

import pytest

from service.compute.waiting_room import PAST_THE_MODEL_BATCHES, WaitingRoom
from service.errors import QueueFull


def make_room(queue_limit: int = 2, max_batch: int = 1, budget: int = 100) -> WaitingRoom:
    """A small room."""
    return WaitingRoom(queue_limit=queue_limit, max_batch=max_batch, upload_budget_bytes=budget)


def test_the_limit_is_exact() -> None:
    """The third of two is refused, with a pause."""
    room = make_room(queue_limit=2)
    room.enter()
    room.enter()
    with pytest.raises(QueueFull) as caught:
        room.enter()
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s >= 1
    assert "limit is 2" in caught.value.detail
    with pytest.raises(QueueFull):
        room.refuse_if_full()
    assert room.waiting == 2


def test_reaching_the_model_frees_a_waiting_place_once() -> None:
    """Both ways out are idempotent, in any order."""
    room = make_room(queue_limit=1)
    with room.enter() as place:
        place.reach_model()
        place.reach_model()
        assert (room.waiting, room.inside) == (0, 1)
        with room.enter():
            assert (room.waiting, room.inside) == (1, 2)
    place.leave()
    assert (room.waiting, room.inside) == (0, 0)


def test_a_place_comes_back_after_an_error() -> None:
    """The gauge must not drift."""
    room = make_room()
    with pytest.raises(RuntimeError), room.enter():
        raise RuntimeError
    assert (room.waiting, room.inside) == (0, 0)


def test_requests_past_the_model_are_bounded_too() -> None:
    """A slow render cannot pile up images without end."""
    room = make_room(queue_limit=1, max_batch=1)
    for _ in range(1 + PAST_THE_MODEL_BATCHES):
        room.enter().reach_model()
    with pytest.raises(QueueFull):
        room.enter()


def test_upload_bytes_are_bounded_over_all_requests() -> None:
    """The budget refuses, and what was counted can be given back."""
    room = make_room(budget=100)
    room.hold_upload_bytes(60)
    with pytest.raises(QueueFull):
        room.hold_upload_bytes(60)
    room.hold_upload_bytes(-60)
    room.hold_upload_bytes(-60)
    room.hold_upload_bytes(100)


def test_the_pause_grows_with_the_pace() -> None:
    """Slow models announce longer pauses, up to the bound."""
    pauses = []
    for seconds in (0.01, 5.0):
        room = make_room(queue_limit=4)
        for _ in range(50):
            room.note_pace(seconds)
        for _ in range(4):
            room.enter()
        with pytest.raises(QueueFull) as caught:
            room.enter()
        pauses.append(caught.value.retry_after_s or 0)
    assert pauses[0] == 1
    assert 15 <= pauses[1] <= 30


def test_counts_hold_when_threads_come_and_go() -> None:
    """No lost update."""
    room = make_room(queue_limit=1000, max_batch=1000)

    def visit() -> None:
        for _ in range(300):
            with room.enter() as place:
                place.reach_model()

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (room.waiting, room.inside) == (0, 0)


def test_bytes_inside_are_bounded_and_come_back() -> None:
    """A large one is let in alone, and nobody beside it."""
    room = WaitingRoom(queue_limit=9, max_batch=1, upload_budget_bytes=100, queue_limit_bytes=1000)
    with room.enter() as large:
        large.hold_bytes(5000)
        large.hold_bytes(5000)
        with pytest.raises(QueueFull) as caught, room.enter() as small:
            small.hold_bytes(1)
        assert "limit is 1000" in caught.value.detail
        assert room.inside_bytes == 10_000
    assert room.inside_bytes == 0
    with room.enter() as first, room.enter() as second:
        first.hold_bytes(500)
        second.hold_bytes(500)
    assert (room.inside_bytes, room.inside) == (0, 0)
