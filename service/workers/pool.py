"""The pool: sends tasks to workers and their answers to the callers.

It runs in the event loop of the front, never blocks, and reads only the frame of a worker's
message. A worker that dies loses only its own task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from service.caller_turns import SERVICE
from service.workers.errors import (
    EndReason,
    PoolClosed,
    TaskFailed,
    TaskRefused,
    TooCostly,
    WorkerError,
    WorkerLost,
)
from service.workers.framing import Frame, FrameError, Kind
from service.workers.reply import Reply, reply_of, seconds_in
from service.workers.shared_memory import Blob
from service.workers.supervisor import PoolConfig, Supervisor, SupervisorEvents
from service.workers.task_queue import Job, TaskQueue
from service.workers.worker_handle import Stage, WorkerHandle

__all__ = ["PoolConfig", "WorkerPool"]


class WorkerPool:
    """Workers that wait for tasks.

    Attributes:
        supervisor: keeps workers alive; counts their ends by reason.
    """

    def __init__(self, config: PoolConfig, workers: int) -> None:
        """Build the pool; nothing runs before `start`.

        Raises:
            ValueError: there are no workers.
        """
        if workers < 1:
            raise ValueError(f"{workers} workers are no pool")
        self.size = workers
        events = SupervisorEvents(self._dispatch, self._note_answer, _fail_lost)
        self.supervisor = Supervisor(config, workers, events)
        self._config = config
        self._queue = TaskQueue(workers)
        self._is_closed = False

    @property
    def ready(self) -> int:
        """Workers that have a task or wait for one."""
        return sum(each.stage in (Stage.IDLE, Stage.BUSY) for each in self.supervisor.workers)

    @property
    def busy(self) -> int:
        """Workers that have a task."""
        return sum(each.stage is Stage.BUSY for each in self.supervisor.workers)

    @property
    def waiting(self) -> int:
        """Tasks that wait for a worker."""
        return len(self._queue)

    async def start(self) -> None:
        """Start the workers, which takes a second or two; tasks may be queued at once."""
        if self._config.extras_from_start:
            self.supervisor.want_extras()
        self.supervisor.start()

    def prepare_extras(self) -> None:
        """Load the extras in workers, before a task that needs them."""
        self.supervisor.want_extras()

    async def close(self) -> None:
        """End all workers; running and waiting tasks get `PoolClosed`."""
        self._is_closed = True
        waiting = self._queue.drain()
        for job in [*waiting, *await self.supervisor.close()]:
            _fail(job, PoolClosed("the workers are being closed"))

    async def run(
        self,
        task: str,
        fields: Mapping[str, Any] | None = None,
        body: bytes = b"",
        blobs: Sequence[Blob] = (),
        *,
        cpu_s: float,
        wall_s: float,
        most_cpu_s: float | None = None,
        is_costly: bool = False,
        urgency: int = 0,
        caller: str = SERVICE,
        needs_extras: bool = False,
    ) -> Reply:
        """Run one task; cancelling it ends the worker that has it.

        Args:
            task: name of its function in `TASKS`.
            fields: JSON for it.
            body: raw bytes for it, at most a MiB.
            blobs: shared memory for it, which the caller closes.
            cpu_s: granted CPU time, seconds.
            wall_s: granted wall time in the worker, seconds.
            most_cpu_s: most CPU time if the function requests more (`Task.needs_cpu`); the task
                then waits again as a costly one. Default: `cpu_s`.
            is_costly: whether it is one of the tasks that get at most half of the workers.
            urgency: lower runs first.
            caller: whose turn it takes; callers with waiting tasks go in turn.
            needs_extras: whether it needs the extras; the first such task waits until they are
                loaded.

        Raises:
            TooCostly: it met a limit or crashed its worker.
            WorkerLost: its worker ended for another reason.
            TaskRefused: its function refused the input.
            TaskFailed: its function raised.
            PoolClosed: the pool is closing.
            FrameError: `fields` or `body` are too large.
        """
        if self._is_closed:
            raise PoolClosed("the workers are being closed")
        if needs_extras:
            self.supervisor.want_extras()
            await self.supervisor.extras.wait()
            if self._is_closed:
                raise PoolClosed("the workers are being closed")
        result: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        most = max(cpu_s, most_cpu_s or 0.0)
        job = Job(
            task, fields or {}, body, blobs, cpu_s, most, wall_s, is_costly, urgency, caller, result
        )
        self._queue.put(job)
        self._dispatch()
        try:
            return await result
        except asyncio.CancelledError:
            self._withdraw(job)
            raise

    def _dispatch(self) -> None:
        """Send waiting tasks to idle workers, the most used first, because its memory is warm."""
        workers = self.supervisor.workers
        idle = [each for each in workers if each.stage is Stage.IDLE]
        idle.sort(key=lambda each: each.tasks_done)
        while idle:
            job = self._queue.take([each.job for each in workers if each.job is not None])
            if job is None:
                return
            worker = idle.pop()
            try:
                if not worker.hand(job):
                    self._queue.put_back(job)
            except (FrameError, OSError, ValueError) as error:  # the task cannot be sent
                _fail(job, error)
                idle.append(worker)

    def _withdraw(self, job: Job) -> None:
        result = job.result
        if result.done() and not result.cancelled() and result.exception() is None:
            result.result().close()  # the answer came, but nobody waits for it
        for worker in self.supervisor.workers:
            if worker.job is job:
                self.supervisor.end(worker, EndReason.CANCELLED)

    def _note_answer(self, worker: WorkerHandle, job: Job, frame: Frame) -> None:
        self.supervisor.note_success()
        was_costly = job.is_costly  # its priority was lowered, which cannot be undone
        try:
            self._settle(job, frame)
        except FrameError:
            _fail(job, TooCostly(EndReason.GARBLED))
            self.supervisor.end(worker, EndReason.GARBLED)
            return
        if frame.kind is Kind.MEMORY:
            self.supervisor.end(worker, EndReason.MEMORY_LIMIT)
        elif (
            frame.kind is Kind.FAILED
            or frame.fields.get("is_last") is True
            or was_costly
            or self.supervisor.is_outdated(worker)
            or worker.tasks_done >= self._config.limits.tasks
        ):
            self.supervisor.end(worker, EndReason.RETIRED)
        self._dispatch()

    def _settle(self, job: Job, frame: Frame) -> None:
        """Give the caller the worker's answer.

        Raises:
            FrameError: it is not a valid answer.
        """
        if frame.kind is Kind.DONE:
            reply = reply_of(frame, self._config.limits.file_bytes)
            if job.result.done():
                reply.close()
            else:
                job.result.set_result(reply)
            return
        frame.close()
        if frame.kind is Kind.MORE:
            self._grant_more(job, seconds_in(frame, "cpu_needed_s"))
        else:
            _fail(job, _error_in(frame))

    def _grant_more(self, job: Job, cpu_s: float) -> None:
        """Queue a task again as a costly one; refuse a second or too large a request."""
        if job.is_costly or cpu_s > job.most_cpu_s:
            _fail(job, TooCostly(EndReason.CPU_LIMIT))
            return
        job.cpu_s, job.is_costly = cpu_s, True
        self._queue.put(job)


def _fail(job: Job, error: Exception) -> None:
    if not job.result.done():
        job.result.set_exception(error)


def _fail_lost(job: Job, reason: EndReason) -> None:
    _fail(job, TooCostly(reason) if reason.is_tasks_fault else WorkerLost(reason))


def _error_in(frame: Frame) -> WorkerError:
    """Return the error in a worker's answer.

    Raises:
        FrameError: it is not a valid answer.
    """
    fields = frame.fields
    if frame.kind is Kind.MEMORY:
        return TooCostly(EndReason.MEMORY_LIMIT)
    if frame.kind is Kind.REFUSED and isinstance(fields.get("fields"), dict):
        return TaskRefused(fields["fields"])
    if frame.kind is Kind.FAILED and isinstance(fields.get("where"), list):
        where = tuple(str(each)[:200] for each in fields["where"][:5])
        return TaskFailed(str(fields.get("error_type"))[:100], where)
    raise FrameError("the answer cannot be read")
