"""The queue: batches up to the limit, no wait for a lone request, a window under load only."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from service.compute import batch_queue
from service.compute.batch_queue import BatchQueue


@dataclass(eq=False)
class Item:
    number: int
    queued_at: float = field(default_factory=time.perf_counter)
    caller: str = "somebody"


def numbers(batch: list[Item] | None) -> list[int]:
    assert batch is not None
    return [item.number for item in batch]


def test_what_waits_leaves_in_order_and_in_batches() -> None:
    queue: BatchQueue[Item] = BatchQueue(3, 0.0)
    for number in range(5):
        assert queue.put(Item(number))
    assert numbers(queue.take(1)) == [0, 1, 2]
    assert numbers(queue.take(1)) == [3, 4]
    assert queue.take(0.01) == []


def test_callers_go_in_turn_in_batches_that_stay_full() -> None:
    queue: BatchQueue[Item] = BatchQueue(4, 0.0)
    for number in range(6):
        queue.put(Item(number, caller="many"))
    queue.put(Item(100, caller="few"))
    assert numbers(queue.take(1)) == [0, 100, 1, 2]
    assert numbers(queue.take(1, most=1)) == [3]
    assert numbers(queue.take_due(most=9)) == [4, 5]


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        stopped = SimpleNamespace(perf_counter=lambda: self.now_s)
        monkeypatch.setattr(batch_queue, "time", stopped)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Taking:
    """A thread that takes one batch."""

    def __init__(self, queue: BatchQueue[Item]) -> None:
        self._found: list[list[Item] | None] = []
        self._thread = threading.Thread(
            target=lambda: self._found.append(queue.take(5)), daemon=True
        )
        self._thread.start()

    def is_waiting(self) -> bool:
        """Whether it has nothing yet, a moment later."""
        self._thread.join(0.1)
        return self._thread.is_alive()

    def taken(self) -> list[int]:
        self._thread.join(30)
        assert self._found, "it still waits"
        return numbers(self._found[0])


def burst(clock: Clock, window_s: float, max_batch: int = 100) -> BatchQueue[Item]:
    """A queue that has seen twenty requests arrive together, ten seconds ago."""
    queue: BatchQueue[Item] = BatchQueue(max_batch, window_s)
    for number in range(20):
        queue.put(Item(number, queued_at=clock.now_s - 10 + 0.001 * number))
    queue.empty()
    return queue


def test_a_lone_request_never_waits_for_company(clock: Clock) -> None:
    queue: BatchQueue[Item] = BatchQueue(8, 0.5)
    for number in range(3):
        queue.put(Item(number, queued_at=clock.now_s + 2.0 * number))
    assert Taking(queue).taken()[0] == 0


def test_under_load_the_window_counts_from_the_first_waiting_request(clock: Clock) -> None:
    queue = burst(clock, window_s=0.4)
    queue.put(Item(0, queued_at=clock.now_s - 9.98))  # it has waited long enough: it goes at once
    assert Taking(queue).taken() == [0]


def test_under_load_later_requests_join_within_the_window(clock: Clock) -> None:
    queue = burst(clock, window_s=0.4)
    clock.now_s -= 9.98
    queue.put(Item(100, queued_at=clock.now_s))
    taking = Taking(queue)
    assert taking.is_waiting()
    clock.now_s += 0.39
    queue.put(Item(101, queued_at=clock.now_s))  # wakes it, too
    assert taking.is_waiting()
    clock.now_s += 0.02
    assert taking.taken() == [100, 101]


def test_a_full_batch_does_not_wait_for_the_window(clock: Clock) -> None:
    queue = burst(clock, window_s=5.0, max_batch=2)
    clock.now_s -= 9.98
    for number in range(2):
        queue.put(Item(number, queued_at=clock.now_s))
    assert Taking(queue).taken() == [0, 1]


def test_closed_means_nothing_in_and_what_waits_is_left() -> None:
    queue: BatchQueue[Item] = BatchQueue(2, 0.0)
    item = Item(1)
    queue.put(item)
    queue.close()
    assert not queue.put(Item(2))
    assert queue.take(1) is None
    assert queue.empty() == [item]


def test_a_removed_item_never_leaves() -> None:
    queue: BatchQueue[Item] = BatchQueue(2, 0.0)
    items = [Item(0), Item(1)]
    for item in items:
        queue.put(item)
    queue.remove(items[0])
    queue.remove(items[0])
    assert queue.take(1) == [items[1]]
