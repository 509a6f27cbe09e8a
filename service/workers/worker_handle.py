"""The front's handle on one worker: the task in its hands, its clock, and the answer it gives."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from service.workers.channel import Channel
from service.workers.errors import EndReason
from service.workers.framing import Frame, FrameError, Kind
from service.workers.shared_memory import Blob, BlobError
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
        stage: what it is doing.
        job: the task in its hands.
        tasks_done: tasks that it has answered.
        ended_by: why the front ends it, if it does.
    """

    def __init__(self, number: int, connection: socket.socket, events: WorkerEvents) -> None:
        """Takes over the socket to a worker that is being forked."""
        self.number = number
        self.process: int | None = None
        self.stage = Stage.STARTING
        self.job: Job | None = None
        self.tasks_done = 0
        self.ended_by: EndReason | None = None
        self._events = events
        self._clock: asyncio.TimerHandle | None = None
        self._channel = Channel(connection, self._take, self._ended)

    @property
    def is_costly(self) -> bool:
        """Whether it has a costly task in its hands."""
        return self.job is not None and self.job.is_costly

    def hand(self, job: Job) -> None:
        """Hands it a task and starts the clock.

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
        self._channel.send(Frame(Kind.TASK, fields, job.body, descriptors))
        self.stage, self.job = Stage.BUSY, job
        loop = asyncio.get_running_loop()
        self._clock = loop.call_later(job.wall_s, self._events.on_late, self)

    def end(self, reason: EndReason) -> None:
        """Notes that the front ends it; the first reason counts."""
        self.ended_by = self.ended_by or reason
        self.stage = Stage.ENDING
        self._stop_clock()

    def take_last_answer(self) -> None:
        """Takes an answer that it sent in full before it ended."""
        self._channel.read_last()

    def close(self) -> None:
        """Gives the socket back."""
        self._stop_clock()
        self._channel.close()

    def _take(self, frame: Frame) -> None:
        if self.stage is Stage.STARTING and frame.kind is Kind.READY:
            frame.close()
            self.stage = Stage.IDLE
            refused = frame.fields.get("refused_limits")
            self._events.on_ready(self, refused if isinstance(refused, list) else [])
        elif self.job is not None and frame.kind in _ANSWERS:
            job, self.job = self.job, None
            self._stop_clock()
            self.tasks_done += 1
            if self.stage is Stage.BUSY:
                self.stage = Stage.IDLE
            self._events.on_answer(self, job, frame)
        else:
            frame.close()
            raise FrameError(f"{frame.kind.name} came unasked")

    def _ended(self, error: FrameError | None) -> None:
        self._stop_clock()
        if error is not None:
            self._events.on_garbled(self)
        # Its end itself is told by the template, which knows how.

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


@dataclass(frozen=True)
class Reply:
    """The answer of a task; a context manager that closes its blobs.

    Attributes:
        fields: JSON of the function; written by a process that met hostile bytes.
        body: its raw bytes.
        blobs: its shared memory; the caller closes it.
        cpu_s: processor time used, seconds, as the worker says.
        wall_s: time used, seconds, as the worker says.
    """

    fields: Mapping[str, Any]
    body: bytes
    blobs: tuple[Blob, ...]
    cpu_s: float
    wall_s: float

    def close(self) -> None:
        """Closes the blobs."""
        for blob in self.blobs:
            blob.close()

    def __enter__(self) -> Reply:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the blobs."""
        self.close()


def reply_of(frame: Frame, most_blob_bytes: int) -> Reply:
    """Returns the reply in a frame after judging all of it.

    Raises:
        FrameError: it is no reply of ours; its descriptors are closed.
    """
    blobs: list[Blob] = []
    descriptors = list(frame.descriptors)
    try:
        said, sizes = frame.fields.get("said"), frame.fields.get("blob_bytes")
        if not isinstance(said, dict) or not isinstance(sizes, list):
            raise FrameError("the answer has no fields")
        while descriptors:
            blobs.append(Blob.received(descriptors.pop(0), most_blob_bytes))
        if [blob.size_bytes for blob in blobs] != sizes:
            raise FrameError("the shared memory has another size than the answer says")
        times = seconds_in(frame, "cpu_used_s"), seconds_in(frame, "wall_s")
        return Reply(said, frame.body, tuple(blobs), *times)
    except (FrameError, BlobError) as error:
        for blob in blobs:
            blob.close()
        Frame(frame.kind, descriptors=tuple(descriptors)).close()
        raise FrameError(str(error)) from None


def seconds_in(frame: Frame, name: str) -> float:
    """Returns a duration that a worker states.

    Raises:
        FrameError: it is none.
    """
    value = frame.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FrameError(f"{name} is no number")
    if not (math.isfinite(value) and 0 <= value < 1e6):
        raise FrameError(f"{name} is no duration")
    return float(value)
