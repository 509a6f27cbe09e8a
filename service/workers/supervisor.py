"""Keep a number of workers alive: start the template, replace ended workers, count the reasons.

It runs in the event loop of the front. The pool decides which task a worker gets.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from service.workers.endings import Ending, reason_of
from service.workers.errors import EndReason, PoolClosed, TaskFailed, WorkerLost
from service.workers.extras import Extras
from service.workers.framing import Frame
from service.workers.limits import WorkerLimits
from service.workers.task_queue import Job
from service.workers.template_handle import TemplateEvents, TemplateHandle
from service.workers.worker_handle import Stage, WorkerEvents, WorkerHandle

logger = logging.getLogger("service.workers")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Pause between attempts to start a process that ended before it was ready; it doubles each
time."""

WARM_TIMEOUT_S = 120.0
"""Seconds after which a template that has not loaded its modules is killed; loading takes a second
or two."""

START_TIMEOUT_S, END_TIMEOUT_S = 30.0, 30.0
"""Seconds for a worker to start or end, which takes milliseconds; beyond, the template counts as
hung."""


@dataclass(frozen=True)
class PoolConfig:
    """Tasks and limits of the workers.

    Attributes:
        tasks: module that defines `TASKS`, see `service.workers.task`.
        on_ended: called with the reason of every worker's end, for a metric.
        extras_from_start: whether workers have the extras from the start.
    """

    tasks: str
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    on_ended: Callable[[EndReason], None] = lambda reason: None
    extras_from_start: bool = False


@dataclass(frozen=True)
class SupervisorEvents:
    """Events for the pool.

    Attributes:
        on_idle: a worker waits for a task.
        on_answer: a worker's task has an answer.
        on_lost: a worker has ended, or is being ended, during this task.
    """

    on_idle: Callable[[], None]
    on_answer: Callable[[WorkerHandle, Job, Frame], None]
    on_lost: Callable[[Job, EndReason], None]


class Supervisor:
    """The workers of one pool.

    Attributes:
        ends: how many workers ended, by reason.
        template_facts: facts that the template reported when it was warm.
        extras: whether tasks have needed the extras.
        refused_limits: limits that the kernel refused to any worker.
        most_resident_bytes: largest resident memory of any ended worker.
    """

    def __init__(self, config: PoolConfig, size: int, events: SupervisorEvents) -> None:
        """Build the supervisor; nothing runs before `start`."""
        self.ends: Counter[EndReason] = Counter()
        self.template_facts: Mapping[str, Any] = {}
        self.extras = Extras()
        self.refused_limits: set[str] = set()
        self.most_resident_bytes = 0
        self._config = config
        self._size = size
        self._events = events
        self._workers: dict[int, WorkerHandle] = {}
        self._numbers = itertools.count()
        self._template: TemplateHandle | None = None
        self._template_events = TemplateEvents(
            self._note_warm, self._note_process, self._note_ended, self._note_template_lost
        )
        self._worker_events = WorkerEvents(
            on_ready=self._note_ready,
            on_answer=events.on_answer,
            on_garbled=lambda worker: self.end(worker, EndReason.GARBLED),
            on_late=lambda worker: self.end(worker, EndReason.WALL_CLOCK),
        )
        self._pause_s = FIRST_PAUSE_S
        self._is_pausing = False
        self._is_closed = False

    @property
    def workers(self) -> list[WorkerHandle]:
        """All running workers."""
        return list(self._workers.values())

    @property
    def process_ids(self) -> list[int]:
        """The template's process id, then the workers'."""
        template = [self._template.process.pid] if self._template is not None else []
        return template + [each.process for each in self.workers if each.process is not None]

    def start(self) -> None:
        """Start the template, and the workers when it is warm."""
        config = self._config
        try:
            template = TemplateHandle(config.tasks, config.limits, self._template_events)
        except OSError:
            logger.exception("the template of the image workers cannot be started")
            self._try_later()
            return
        self._template = template
        self._call_later(WARM_TIMEOUT_S, partial(self._end_template_unless_warm, template))
        if self.extras.are_wanted:
            self._ask_for_extras(template)

    def want_extras(self) -> None:
        """Make the template load the extras, unless it already does.

        Workers without them are replaced: idle ones at once, others after their task.
        """
        if not self._is_closed and self.extras.want() and self._template is not None:
            self._ask_for_extras(self._template)

    def is_outdated(self, worker: WorkerHandle) -> bool:
        """Whether a worker lacks the extras that new ones have; it gets no further task."""
        holds = self._template is not None and self._template.has_extras
        return holds and not worker.has_extras

    def end(self, worker: WorkerHandle, reason: EndReason) -> None:
        """Kill a worker; its task is lost at once, and it is replaced when it is dead."""
        if worker.ended_by is not None:
            return
        job = worker.end(reason)
        if self._template is not None:
            self._template.kill(worker.number)
            self._call_later(END_TIMEOUT_S, partial(self._end_template_unless_dead, worker))
        if job is not None:
            self._events.on_lost(job, reason)

    def note_success(self) -> None:
        """Reset the pause after failures to start."""
        self._pause_s = FIRST_PAUSE_S

    async def close(self) -> list[Job]:
        """End all processes; return their tasks."""
        self._is_closed = True
        self.extras.note_failed(PoolClosed("the workers are being closed"))
        workers, self._workers = self.workers, {}
        for worker in workers:
            worker.close()
        template, self._template = self._template, None
        if template is not None:
            await template.close()
        return [worker.job for worker in workers if worker.job is not None]

    def _note_warm(self, facts: Mapping[str, Any]) -> None:
        self.template_facts = facts
        if facts["has_extras"]:
            for worker in self.workers:
                if worker.stage is Stage.IDLE and self.is_outdated(worker):
                    self.end(worker, EndReason.RETIRED)
            self.extras.note_held()
            logger.info("image workers hold what answers in DICOM need")
        elif failure := facts.get("extras_failure"):
            logger.error("the image workers' extras cannot be loaded", extra={"fields": failure})
            self.extras.note_failed(TaskFailed(failure["error_type"], tuple(failure["where"])))
        self._fill_up()

    def _note_process(self, number: int, process: int) -> None:
        if number in self._workers:
            self._workers[number].process = process

    def _note_ready(self, worker: WorkerHandle, refused_limits: list[str]) -> None:
        news = {str(name) for name in refused_limits} - self.refused_limits
        if news:
            self.refused_limits |= news
            fields = {"fields": {"refused": sorted(news)}}
            logger.warning("the kernel refuses limits of the image workers", extra=fields)
        if self.is_outdated(worker):  # forked before the extras were loaded
            self.end(worker, EndReason.RETIRED)
        self._events.on_idle()

    def _note_ended(self, number: int, ending: Ending) -> None:
        worker = self._workers.pop(number, None)
        if worker is None:
            return
        worker.take_last_answer()
        worker.close()
        self.most_resident_bytes = max(self.most_resident_bytes, ending.peak_bytes)
        reason = reason_of(ending, worker.ended_by, self._config.limits.memory_bytes)
        if not worker.was_ready:
            reason = EndReason.NOT_STARTED
        self._count(reason)
        if worker.job is not None:
            self._events.on_lost(worker.job, reason)
        if worker.was_ready:
            self._fill_up()
        else:
            self._try_later()

    def _note_template_lost(self) -> None:
        if self._template is not None and not self._template.has_extras:
            # Loading the extras may have ended it, so it does not load them again unasked.
            self.extras.note_failed(WorkerLost(EndReason.TEMPLATE_LOST))
        self._template = None
        workers, self._workers = self.workers, {}
        for worker in workers:
            worker.close()
            self._count(EndReason.TEMPLATE_LOST)
            if worker.job is not None:
                self._events.on_lost(worker.job, EndReason.TEMPLATE_LOST)
        logger.error("the template of the image workers ended")
        self._try_later()

    def _end_template_unless_warm(self, template: TemplateHandle) -> None:
        if not template.is_warm:
            self._end_template(template)

    def _ask_for_extras(self, template: TemplateHandle) -> None:
        template.warm_extras()
        check = partial(self._end_template_unless_answered, template, template.extras_asked)
        self._call_later(WARM_TIMEOUT_S, check)

    def _end_template_unless_answered(self, template: TemplateHandle, request: int) -> None:
        is_waiting = self.extras.are_wanted and not template.has_extras
        if is_waiting and template.extras_asked == request:
            self._end_template(template)

    def _end_template_unless_dead(self, worker: WorkerHandle) -> None:
        """End a template that does not kill a worker or does not report: it is hung."""
        if self._template is not None and self._workers.get(worker.number) is worker:
            self._end_template(self._template)

    def _end_template(self, template: TemplateHandle) -> None:
        if self._template is template:
            template.kill_now()
            self._note_template_lost()

    def _fill_up(self) -> None:
        """Request as many workers as are missing."""
        template = self._template
        if self._is_closed or self._is_pausing or template is None or not template.is_warm:
            return
        while len(self._workers) < self._size:
            number = next(self._numbers)
            try:
                connection = template.fork(number)
            except OSError:  # no descriptor is left
                self._try_later()
                return
            worker = WorkerHandle(number, connection, self._worker_events)
            self._workers[number] = worker
            self._call_later(START_TIMEOUT_S, partial(self._end_unless_ready, worker))

    def _end_unless_ready(self, worker: WorkerHandle) -> None:
        if not worker.was_ready and self._workers.get(worker.number) is worker:
            self.end(worker, EndReason.NOT_STARTED)

    def _try_later(self) -> None:
        if self._is_closed or self._is_pausing:
            return
        self._is_pausing = True
        self._call_later(self._pause_s, self._try_again)
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)

    def _try_again(self) -> None:
        self._is_pausing = False
        if self._template is None:
            self.start()
        else:
            self._fill_up()

    def _call_later(self, seconds: float, work: Callable[[], None]) -> None:
        def unless_closed() -> None:
            if not self._is_closed:
                work()

        asyncio.get_running_loop().call_later(seconds, unless_closed)

    def _count(self, reason: EndReason) -> None:
        self.ends[reason] += 1
        self._config.on_ended(reason)
