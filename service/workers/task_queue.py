"""Tasks that wait for a worker, and which of them is next.

The most urgent task is next, then the task of the caller whose turn it is, then the oldest. A
running task is not interrupted, so two bounds leave workers to others. Costly tasks may hold at
most half of them, and no caller may hold the last quarter while another one sends tasks. Without
the second bound, a caller of eight tasks at a time would have all workers whenever another one's
task comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.caller_turns import SERVICE, CallerTurns, RecentCallers, most_of_one
from service.memory_allowance import most_costly_tasks
from service.workers.shared_memory import Blob

ABOUT_S = 5.0
"""For how long a caller is about after its latest task: its answer may be at the network, or its
next request on the way."""


@dataclass(eq=False)
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
        caller: whose turns it uses.
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
    caller: str
    result: asyncio.Future[Any] = field(repr=False)


class TaskQueue:
    """Waiting jobs in their order."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            workers: number of workers; a single one is for all tasks of all callers.
            clock: seconds of a clock that never goes back.
        """
        self._most_costly = most_costly_tasks(workers)
        self._most_of_one = most_of_one(workers)
        self._about = RecentCallers(ABOUT_S, clock)
        self._waiting: dict[int, CallerTurns[Job]] = {}  # by urgency

    def __len__(self) -> int:
        """Return how many wait, those included whose caller has left."""
        return sum(len(turns) for turns in self._waiting.values())

    def put(self, job: Job) -> None:
        """Add one."""
        self._turns_of(job).put(job.caller, job)
        self._about.note(job.caller)

    def put_back(self, job: Job) -> None:
        """Add one that was taken and not begun, before its equals."""
        self._turns_of(job).put_back(job.caller, job)

    def take(self, running: Collection[Job]) -> Job | None:
        """Take the next one, None when none may run now.

        Args:
            running: what workers have in their hands.
        """
        may = self._permission(running)
        for urgency in sorted(self._waiting):
            while (job := self._waiting[urgency].take(may)) is not None:
                if not job.result.done():  # else the caller has left
                    return job
        return None

    def drain(self) -> list[Job]:
        """Take all."""
        return [job for turns in self._waiting.values() for job in turns.empty()]

    def _turns_of(self, job: Job) -> CallerTurns[Job]:
        return self._waiting.setdefault(job.urgency, CallerTurns())

    def _permission(self, running: Collection[Job]) -> Callable[[Job], bool]:
        """Return what says of a job whether it may run beside those that run."""
        is_half_costly = sum(job.is_costly for job in running) >= self._most_costly
        held = [job.caller for job in running]
        is_shared = self._about.are_several
        full = {one for one in held if held.count(one) >= self._most_of_one} - {SERVICE}

        def may(job: Job) -> bool:
            is_kept = (is_half_costly and job.is_costly) or (is_shared and job.caller in full)
            return not is_kept or job.result.done()

        return may
