"""The queue: batches up to the limit, no wait for a lone request, a window under load only."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from service.compute.batch_queue import BatchQueue


@dataclass(eq=False)
class Item:
    number: int
    queued_at: float = field(default_factory=time.perf_counter)


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


def test_a_lone_request_never_waits_for_company() -> None:
    queue: BatchQueue[Item] = BatchQueue(8, 0.5)
    for number in range(3):
        queue.put(Item(number, queued_at=time.perf_counter() + 2.0 * number))
    began = time.perf_counter()
    assert numbers(queue.take(5))[0] == 0
    assert time.perf_counter() - began < 0.2


def loaded(window_s: float, max_batch: int = 100) -> BatchQueue[Item]:
    """A queue that has seen twenty requests arrive together."""
    queue: BatchQueue[Item] = BatchQueue(max_batch, window_s)
    at = time.perf_counter() - 10
    for number in range(20):
        queue.put(Item(number, queued_at=at + 0.001 * number))
    queue.empty()
    return queue


def test_under_load_the_window_counts_from_the_first_waiting_request() -> None:
    queue = loaded(window_s=0.4)
    first = Item(0, queued_at=queue._last_queued_at + 0.001)
    queue.put(first)  # it has waited for ten seconds: it goes at once
    began = time.perf_counter()
    assert numbers(queue.take(5)) == [0]
    assert time.perf_counter() - began < 0.2


def test_under_load_later_requests_join_within_the_window() -> None:
    queue: BatchQueue[Item] = BatchQueue(100, 0.4)
    for number in range(20):
        queue.put(Item(number))
    queue.empty()
    queue.put(Item(100))
    threading.Timer(0.1, lambda: queue.put(Item(101))).start()
    began = time.perf_counter()
    assert numbers(queue.take(5)) == [100, 101]
    assert 0.3 < time.perf_counter() - began < 1.5


def test_a_full_batch_does_not_wait_for_the_window() -> None:
    queue: BatchQueue[Item] = BatchQueue(2, 5.0)
    for number in range(20):
        queue.put(Item(number))
    began = time.perf_counter()
    assert numbers(queue.take(5)) == [0, 1]
    assert time.perf_counter() - began < 0.2


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
