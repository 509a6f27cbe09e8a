"""The front's handle on one worker: its task, its time limit, and its answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from service.workers.channel import Channel
from service.workers.errors import EndReason
from service.workers.framing import Frame, FrameError, Kind
from service.workers.task_queue import Job

_ANSWERS = (Kind.DONE, Kind.REFUSED, Kind.FAILED, Kind.MEMORY, Kind.MORE)


class Stage(Enum):
    """The states of a worker."""

    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    ENDING = auto()


@dataclass(frozen=True)
class WorkerEvents:
    """Events of a worker.

    Attributes:
        on_ready: its limits are set; called with the names of those that the kernel refused.
        on_answer: its task has an answer.
        on_garbled: it sent an invalid frame.
        on_late: its task exceeded its wall time.
    """

    on_ready: Callable[[WorkerHandle, list[str]], None]
    on_answer: Callable[[WorkerHandle, Job, Frame], None]
    on_garbled: Callable[[WorkerHandle], None]
    on_late: Callable[[WorkerHandle], None]


class WorkerHandle:
    """One worker.

    Attributes:
        number: its number in messages with the template.
        process: its process id; None until the template has reported it.
        job: its current task.
        tasks_done: number of answered tasks.
        was_ready: whether it has ever been ready.
        has_extras: whether it has the extras, as it reported before its first task.
        ended_by: the front's reason to end it, if it does.
    """

    def __init__(self, number: int, connection: socket.socket, events: WorkerEvents) -> None:
        """Take ownership of the socket to a worker that is being forked."""
        self.number = number
        self.process: int | None = None
        self.stage = Stage.STARTING
        self.job: Job | None = None
        self.tasks_done = 0
        self.was_ready = False
        self.has_extras = False
        self.ended_by: EndReason | None = None
        self._events = events
        self._clock: asyncio.TimerHandle | None = None
        self._channel = Channel(connection, self._take, self._ended)

    def hand(self, job: Job) -> bool:
        """Send it a task and start the time limit; False if it has ended.

        Raises:
            FrameError: the task is too large for a frame.
            OSError: no descriptor is available.
        """
        fields = {
            "task": job.task,
            "fields": job.fields,
            "cpu_s": job.cpu_s,
            "is_costly": job.is_costly,
        }
        descriptors = tuple(blob.fileno() for blob in job.blobs)
        if not self._channel.send(Frame(Kind.TASK, fields, job.body, descriptors)):
            self.stage = Stage.ENDING
            return False
        self.stage, self.job = Stage.BUSY, job
        loop = asyncio.get_running_loop()
        self._clock = loop.call_later(job.wall_s, self._events.on_late, self)
        return True

    def end(self, reason: EndReason) -> Job | None:
        """Note that the front ends it, and return its task."""
        self.ended_by, self.stage = reason, Stage.ENDING
        self._stop_clock()
        job, self.job = self.job, None
        return job

    def take_last_answer(self) -> None:
        """Read an answer that it had sent before it ended."""
        self._channel.read_last()

    def close(self) -> None:
        """Close the socket."""
        self._stop_clock()
        self._channel.close()

    def _take(self, frame: Frame) -> None:
        if self.stage is Stage.STARTING and frame.kind is Kind.READY:
            frame.close()
            self.stage, self.was_ready = Stage.IDLE, True
            self.has_extras = frame.fields.get("has_extras") is True
            refused = frame.fields.get("refused_limits")
            self._events.on_ready(self, refused if isinstance(refused, list) else [])
        elif self.job is not None and frame.kind in _ANSWERS:
            job, self.job = self.job, None
            self._stop_clock()
            self.tasks_done += 1
            self.stage = Stage.IDLE
            self._events.on_answer(self, job, frame)
        else:
            frame.close()
            raise FrameError(f"{frame.kind.name} came unasked")

    def _ended(self, error: FrameError | None) -> None:
        self._stop_clock()
        if error is not None:
            self._events.on_garbled(self)
        if self.stage is Stage.IDLE:
            self.stage = Stage.ENDING  # the template reports its end and its status

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
