"""The queue of tasks that wait for a worker.

The most urgent task is next, then the task of the caller whose turn it is, then the oldest. A
running task is not interrupted, so two bounds keep workers free for others. Costly tasks may hold
at most half of the workers, and no caller may hold the last quarter while another sends tasks.
Without the second bound, a caller of eight tasks at a time would have all workers whenever another
caller's task arrives.
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
"""How long a caller counts as active after its latest task: its answer may be in the network, or
its next request on the way."""


@dataclass(eq=False)
class Job:
    """One waiting or running task.

    Attributes:
        task: name of its function.
        fields: JSON for it.
        body: raw bytes for it.
        blobs: shared memory for it, which the caller closes.
        cpu_s: processor time granted, seconds.
        most_cpu_s: most CPU time if the function requests more.
        wall_s: granted wall time in the worker, seconds.
        is_costly: whether it counts against the bound for costly tasks.
        urgency: lower runs first.
        caller: whose turns it uses.
        result: future that the caller waits for.
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
    """Waiting jobs in order."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            workers: number of workers; the bounds do not apply to a single one.
            clock: monotonic clock, in seconds.
        """
        self._most_costly = most_costly_tasks(workers)
        self._most_of_one = most_of_one(workers)
        self._about = RecentCallers(ABOUT_S, clock)
        self._waiting: dict[int, CallerTurns[Job]] = {}  # by urgency

    def __len__(self) -> int:
        """Return the number of waiting jobs, including those whose caller has left."""
        return sum(len(turns) for turns in self._waiting.values())

    def put(self, job: Job) -> None:
        """Add a job."""
        self._turns_of(job).put(job.caller, job)
        self._about.note(job.caller)

    def put_back(self, job: Job) -> None:
        """Put back a job that was taken but not begun, before its equals."""
        self._turns_of(job).put_back(job.caller, job)

    def take(self, running: Collection[Job]) -> Job | None:
        """Take the next job; None if none may run now.

        Args:
            running: jobs that workers have.
        """
        may = self._permission(running)
        for urgency in sorted(self._waiting):
            while (job := self._waiting[urgency].take(may)) is not None:
                if not job.result.done():  # otherwise the caller has left
                    return job
        return None

    def drain(self) -> list[Job]:
        """Take all jobs."""
        return [job for turns in self._waiting.values() for job in turns.empty()]

    def _turns_of(self, job: Job) -> CallerTurns[Job]:
        return self._waiting.setdefault(job.urgency, CallerTurns())

    def _permission(self, running: Collection[Job]) -> Callable[[Job], bool]:
        """Return the check whether a job may run beside the running ones."""
        is_half_costly = sum(job.is_costly for job in running) >= self._most_costly
        held = [job.caller for job in running]
        is_shared = self._about.are_several
        full = {one for one in held if held.count(one) >= self._most_of_one} - {SERVICE}

        def may(job: Job) -> bool:
            is_kept = (is_half_costly and job.is_costly) or (is_shared and job.caller in full)
            return not is_kept or job.result.done()

        return may
