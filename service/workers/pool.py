"""The pool: hands tasks to workers, bounds them, tells every end by its reason, replaces the lost.

It lives in the event loop of the front and belongs to it alone; nothing in it waits, and nothing
in it opens what a worker sends beyond its frame. A worker that dies takes only its own task along.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.workers.endings import Ending, reason_of
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
from service.workers.limits import WorkerLimits
from service.workers.shared_memory import Blob
from service.workers.task_queue import Job, TaskQueue
from service.workers.template_handle import TemplateEvents, TemplateHandle
from service.workers.worker_handle import (
    Reply,
    Stage,
    WorkerEvents,
    WorkerHandle,
    reply_of,
    seconds_in,
)

logger = logging.getLogger("service.workers")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between attempts to start what ended before it was ready; it doubles each time."""

_START_TIMEOUT_S = 10.0
"""A worker that is not ready by then is killed; it takes milliseconds."""


@dataclass(frozen=True)
class PoolConfig:
    """What the workers do and may use.

    Attributes:
        tasks: module that holds `TASKS`, see `service.workers.task`.
        limits: of each worker.
        on_ended: called with the reason of every worker's end, for a metric.
    """

    tasks: str
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    on_ended: Callable[[EndReason], None] = lambda reason: None


class WorkerPool:
    """Workers that wait for tasks.

    Attributes:
        size: number of workers.
        ends: how many workers ended, by reason.
        template_facts: what the template said of itself when it was warm.
        refused_limits: limits that the kernel refused to some worker.
    """

    def __init__(self, config: PoolConfig, workers: int) -> None:
        """Builds the pool; nothing runs before `start`.

        Raises:
            ValueError: there are no workers.
        """
        if workers < 1:
            raise ValueError(f"{workers} workers are no pool")
        self.size = workers
        self.ends: Counter[EndReason] = Counter()
        self.template_facts: Mapping[str, Any] = {}
        self.refused_limits: set[str] = set()
        self._config = config
        self._queue = TaskQueue(workers)
        self._workers: dict[int, WorkerHandle] = {}
        self._numbers = itertools.count()
        self._template: TemplateHandle | None = None
        self._template_events = TemplateEvents(
            self._note_warm, self._note_process, self._note_ended, self._note_template_lost
        )
        self._worker_events = WorkerEvents(
            self._note_ready, self._note_answer, self._note_garbled, self._note_late
        )
        self._pause_s = FIRST_PAUSE_S
        self._is_pausing = False
        self._is_closed = False

    @property
    def ready(self) -> int:
        """Workers that have a task or wait for one."""
        return sum(each.stage in (Stage.IDLE, Stage.BUSY) for each in self._workers.values())

    @property
    def busy(self) -> int:
        """Workers that have a task."""
        return sum(each.stage is Stage.BUSY for each in self._workers.values())

    @property
    def waiting(self) -> int:
        """Tasks that wait for a worker."""
        return len(self._queue)

    @property
    def process_ids(self) -> list[int]:
        """The template's process id, then the workers'."""
        template = [self._template.process.pid] if self._template is not None else []
        return template + [w.process for w in self._workers.values() if w.process is not None]

    async def start(self) -> None:
        """Starts the template, which takes about a second; tasks may be given at once."""
        self._start_template()

    async def close(self) -> None:
        """Ends all workers; tasks under way and waiting get `PoolClosed`."""
        self._is_closed = True
        jobs = self._queue.drain()
        for worker in self._workers.values():
            worker.close()
            jobs += [worker.job] if worker.job is not None else []
        self._workers.clear()
        for job in jobs:
            _fail(job, PoolClosed("the workers are being closed"))
        template, self._template = self._template, None
        if template is not None:
            await template.close()

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
    ) -> Reply:
        """Runs one task; cancelling it ends the worker that has it.

        Args:
            task: name of its function.
            fields: JSON for it.
            body: raw bytes for it, at most a MiB.
            blobs: shared memory for it; stays the caller's.
            cpu_s: processor time granted, seconds.
            wall_s: time granted once a worker has it, seconds; waiting is not counted.
            most_cpu_s: processor time granted at most when the function asks for more
                (`Task.needs_cpu`): it then waits again, as a costly one. Default: `cpu_s`.
            is_costly: whether it belongs to those that get at most half of the workers.
            urgency: lower goes first.

        Raises:
            TooCostly: it met a limit or crashed its worker.
            WorkerLost: its worker was ended by something else.
            TaskRefused: its function refused the input.
            TaskFailed: its function raised.
            PoolClosed: the pool is closing.
            FrameError: `fields` or `body` are too large.
        """
        if self._is_closed:
            raise PoolClosed("the workers are being closed")
        result: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        most = max(cpu_s, most_cpu_s or 0.0)
        job = Job(task, fields or {}, body, blobs, cpu_s, most, wall_s, is_costly, urgency, result)
        self._queue.put(job)
        self._dispatch()
        try:
            return await result
        except asyncio.CancelledError:
            self._withdraw(job)
            raise

    def _dispatch(self) -> None:
        """Hands waiting tasks to idle workers, the most recently used first: its memory is warm."""
        idle = [each for each in self._workers.values() if each.stage is Stage.IDLE]
        idle.sort(key=lambda each: each.tasks_done)
        while idle:
            costly = sum(each.is_costly for each in self._workers.values())
            job = self._queue.take(costly)
            if job is None:
                return
            worker = idle.pop()
            try:
                worker.hand(job)
            except (FrameError, OSError, ValueError) as error:
                _fail(job, error)
                idle.append(worker)

    def _withdraw(self, job: Job) -> None:
        if job.result.done() and not job.result.cancelled() and job.result.exception() is None:
            job.result.result().close()  # the answer came, and nobody takes it
        for worker in self._workers.values():
            if worker.job is job:
                self._end(worker, EndReason.CANCELLED)

    # What the template tells

    def _note_warm(self, facts: Mapping[str, Any]) -> None:
        self.template_facts = facts
        self._fill_up()

    def _note_process(self, number: int, process: int) -> None:
        if number in self._workers:
            self._workers[number].process = process

    def _note_ended(self, number: int, ending: Ending) -> None:
        worker = self._workers.get(number)
        if worker is None:
            return
        worker.take_last_answer()
        worker.close()
        del self._workers[number]
        reason = reason_of(ending, worker.ended_by, self._config.limits.memory_bytes)
        if worker.stage is Stage.STARTING and not reason.is_tasks_fault:
            reason = EndReason.NOT_STARTED
        self._count(reason)
        if worker.job is not None:
            _fail(worker.job, _error_of(reason))
        if worker.stage is Stage.STARTING:
            self._try_later()
        else:
            self._fill_up()

    def _note_template_lost(self) -> None:
        self._template = None
        workers, self._workers = self._workers, {}
        for worker in workers.values():
            worker.close()
            self._count(EndReason.TEMPLATE_LOST)
            if worker.job is not None:
                _fail(worker.job, WorkerLost(EndReason.TEMPLATE_LOST))
        logger.error("the template of the image workers ended")
        self._try_later()

    # What a worker tells

    def _note_ready(self, worker: WorkerHandle, refused_limits: list[str]) -> None:
        news = {str(name) for name in refused_limits} - self.refused_limits
        if news:
            self.refused_limits |= news
            logger.warning(
                "image workers run without a limit", extra={"fields": {"refused": sorted(news)}}
            )
        self._dispatch()

    def _note_answer(self, worker: WorkerHandle, job: Job, frame: Frame) -> None:
        self._pause_s = FIRST_PAUSE_S
        try:
            needs_rest = self._settle(job, frame)
        except FrameError:
            _fail(job, TooCostly(EndReason.GARBLED))
            self._end(worker, EndReason.GARBLED)
            return
        is_worn = worker.tasks_done >= self._config.limits.tasks
        if frame.kind is Kind.MEMORY:
            self._end(worker, EndReason.MEMORY_LIMIT)
        elif needs_rest or is_worn or job.is_costly:
            self._end(worker, EndReason.RETIRED)
        self._dispatch()

    def _settle(self, job: Job, frame: Frame) -> bool:
        """Gives the caller what the worker says; whether the worker should be replaced.

        Raises:
            FrameError: it is no answer of ours.
        """
        if frame.kind is Kind.DONE:
            reply = reply_of(frame, self._config.limits.file_bytes)
            if job.result.done():
                reply.close()
            else:
                job.result.set_result(reply)
            return frame.fields.get("is_last") is True
        frame.close()
        if frame.kind is Kind.MORE:
            self._grant_more(job, seconds_in(frame, "cpu_needed_s"))
            return False
        error, needs_rest = _error_in(frame)
        _fail(job, error)
        return needs_rest

    def _grant_more(self, job: Job, cpu_s: float) -> None:
        """Lets a task wait again as a costly one; asking twice, or for too much, is refused."""
        if job.is_costly or cpu_s > job.most_cpu_s:
            _fail(job, TooCostly(EndReason.CPU_LIMIT))
            return
        job.cpu_s, job.is_costly = cpu_s, True
        self._queue.put(job)

    def _note_garbled(self, worker: WorkerHandle) -> None:
        if worker.job is not None:
            _fail(worker.job, TooCostly(EndReason.GARBLED))
        self._end(worker, EndReason.GARBLED)

    def _note_late(self, worker: WorkerHandle) -> None:
        if worker.job is not None:
            _fail(worker.job, WorkerLost(EndReason.WALL_CLOCK))
        self._end(worker, EndReason.WALL_CLOCK)

    # Starting and ending

    def _start_template(self) -> None:
        config = self._config
        try:
            self._template = TemplateHandle(config.tasks, config.limits, self._template_events)
        except OSError:
            logger.exception("the template of the image workers cannot be started")
            self._try_later()

    def _fill_up(self) -> None:
        """Asks for as many workers as are missing."""
        template = self._template
        if self._is_closed or self._is_pausing or template is None or not template.is_warm:
            return
        while len(self._workers) < self.size:
            number = next(self._numbers)
            try:
                connection = template.fork(number)
            except OSError:
                self._try_later()
                return
            worker = WorkerHandle(number, connection, self._worker_events)
            self._workers[number] = worker
            loop = asyncio.get_running_loop()
            loop.call_later(_START_TIMEOUT_S, self._end_unless_started, worker)

    def _end_unless_started(self, worker: WorkerHandle) -> None:
        if worker.stage is Stage.STARTING and self._workers.get(worker.number) is worker:
            worker.ended_by = EndReason.NOT_STARTED
            self._kill(worker)

    def _end(self, worker: WorkerHandle, reason: EndReason) -> None:
        """Kills a worker; its place is free when the template says that it has ended."""
        if worker.stage is not Stage.ENDING:
            worker.end(reason)
            self._kill(worker)

    def _kill(self, worker: WorkerHandle) -> None:
        if self._template is not None:
            self._template.kill(worker.number)

    def _try_later(self) -> None:
        if self._is_closed or self._is_pausing:
            return
        self._is_pausing = True
        pause_s, self._pause_s = self._pause_s, min(LONGEST_PAUSE_S, 2 * self._pause_s)
        asyncio.get_running_loop().call_later(pause_s, self._try_again)

    def _try_again(self) -> None:
        self._is_pausing = False
        if self._is_closed:
            return
        if self._template is None:
            self._start_template()
        else:
            self._fill_up()

    def _count(self, reason: EndReason) -> None:
        self.ends[reason] += 1
        self._config.on_ended(reason)


def _fail(job: Job, error: Exception) -> None:
    if not job.result.done():
        job.result.set_exception(error)


def _error_of(reason: EndReason) -> WorkerError:
    return TooCostly(reason) if reason.is_tasks_fault else WorkerLost(reason)


def _error_in(frame: Frame) -> tuple[WorkerError, bool]:
    """Returns the error that a worker's answer stands for, and whether to replace the worker.

    Raises:
        FrameError: it is no answer of ours.
    """
    fields = frame.fields
    if frame.kind is Kind.MEMORY:
        return TooCostly(EndReason.MEMORY_LIMIT), True
    if frame.kind is Kind.REFUSED and isinstance(fields.get("said"), dict):
        return TaskRefused(fields["said"]), False
    if frame.kind is Kind.FAILED and isinstance(fields.get("where"), list):
        where = tuple(str(each)[:200] for each in fields["where"][:5])
        return TaskFailed(str(fields.get("error_type"))[:100], where), True
    raise FrameError("the answer cannot be read")
