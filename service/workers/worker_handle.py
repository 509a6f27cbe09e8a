"""The front's handle on one worker: the task in its hands, its clock, and the answer it gives."""

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
    """What a worker is doing."""

    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    ENDING = auto()


@dataclass(frozen=True)
class WorkerEvents:
    """What a worker tells.

    Attributes:
        on_ready: its limits are set; with the names of those that the kernel refused.
        on_answer: its task has an answer.
        on_garbled: it sent what no worker of ours sends.
        on_late: its task took longer than its wall clock allows.
    """

    on_ready: Callable[[WorkerHandle, list[str]], None]
    on_answer: Callable[[WorkerHandle, Job, Frame], None]
    on_garbled: Callable[[WorkerHandle], None]
    on_late: Callable[[WorkerHandle], None]


class WorkerHandle:
    """One worker.

    Attributes:
        number: what the template calls it.
        process: its process id; None until the template has said it.
        job: the task in its hands.
        tasks_done: tasks that it has answered.
        was_ready: whether it has ever been ready.
        has_extras: whether it holds what few tasks need; as it said before its first task.
        ended_by: why the front ends it, if it does.
    """

    def __init__(self, number: int, connection: socket.socket, events: WorkerEvents) -> None:
        """Take over the socket to a worker that is being forked."""
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
        """Hand it a task and start the clock; False when it has ended and took nothing.

        Raises:
            FrameError: the task is too large for a frame.
            OSError: no descriptor is left.
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
        """Note that the front ends it, and take the task out of its hands."""
        self.ended_by, self.stage = reason, Stage.ENDING
        self._stop_clock()
        job, self.job = self.job, None
        return job

    def take_last_answer(self) -> None:
        """Take an answer that it sent in full before it ended."""
        self._channel.read_last()

    def close(self) -> None:
        """Give the socket back."""
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
            self.stage = Stage.ENDING  # the template reports its end, and how it ended

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
