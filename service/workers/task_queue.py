"""Tasks that wait for a worker, and which of them is next.

First the more urgent, then the older one. Costly tasks may hold at most half of the workers, so
that a flood of them leaves the other half to everybody else.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.memory_allowance import most_costly_tasks
from service.workers.shared_memory import Blob


@dataclass
class Job:
    """One task on its way.

    Attributes:
        task: name of its function.
        fields: JSON for it.
        body: raw bytes for it.
        blobs: shared memory for it; the caller's.
        cpu_s: processor time granted, seconds.
        most_cpu_s: processor time granted at most, should the function ask for more.
        wall_s: time granted from being handed to a worker, seconds.
        is_costly: whether it counts against the half.
        urgency: lower is sooner.
        result: where the caller waits.
    """

    task: str
    fields: Mapping[str, Any]
    body: bytes
    blobs: Sequence[Blob]
    cpu_s: float
    most_cpu_s: float
    wall_s: float
    is_costly: bool
    urgency: int
    result: asyncio.Future[Any] = field(repr=False)


class TaskQueue:
    """Waiting jobs in their order."""

    def __init__(self, workers: int) -> None:
        """Start empty.

        Args:
            workers: number of workers; of a single one, costly tasks may take all.
        """
        self._most_costly = most_costly_tasks(workers)
        self._waiting: tuple[list[_Entry], list[_Entry]] = ([], [])  # others, costly ones
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """Return how many wait, those included whose caller has left."""
        return sum(len(heap) for heap in self._waiting)

    def put(self, job: Job) -> None:
        """Add one."""
        heapq.heappush(self._waiting[job.is_costly], (job.urgency, next(self._numbers), job))

    def put_back(self, job: Job) -> None:
        """Add one that was taken and not begun, before its equals."""
        heapq.heappush(self._waiting[job.is_costly], (job.urgency, -next(self._numbers), job))

    def take(self, costly_running: int) -> Job | None:
        """Take the next one, None when none may run now.

        Args:
            costly_running: costly tasks in the hands of workers.
        """
        for heap in self._waiting:
            while heap and heap[0][2].result.done():  # the caller has left
                heapq.heappop(heap)
        others, costly = self._waiting
        candidates = [others, costly] if costly_running < self._most_costly else [others]
        filled = [heap for heap in candidates if heap]
        if not filled:
            return None
        return heapq.heappop(min(filled, key=lambda heap: heap[0][:2]))[2]

    def drain(self) -> list[Job]:
        """Take all."""
        jobs = [entry[2] for heap in self._waiting for entry in heap]
        for heap in self._waiting:
            heap.clear()
        return jobs


_Entry = tuple[int, int, Job]
