"""A worker: a limited fork of the template that runs one task after another.

Only the task's function reads untrusted bytes. Nothing is kept between two tasks: everything of a
task is closed, and its garbage is collected.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from service.child_process import ParentGoneError, die_with_parent
from service.heap import give_back_free_memory
from service.workers.confinement import confine
from service.workers.file_access import FileAccess
from service.workers.framing import Frame, FrameError, FrameReader, Kind, receive, refuse_rest, send
from service.workers.limits import (
    ProcessorTimer,
    WorkerLimits,
    apply_limits,
    lower_priority_for_costly_task,
)
from service.workers.shared_memory import Blob, BlobError
from service.workers.task import Answer, Function, NeedsMoreTime, Refusal, Task

_MOST_INPUT_BYTES = 1 << 40  # the front's; sealed, but of any size
IDLE_S = 2.0
"""Seconds without a task after which a worker releases free memory."""

_FRAMES_TOLD = 3
_A_DAY_S = 86_400.0
_MEMORY_ERRORS = (errno.ENOMEM, errno.EFBIG)  # a mapping, a file of shared memory


@dataclass(frozen=True)
class WorkerJob:
    """The common settings of a template's workers.

    Attributes:
        tasks: functions by name.
        limits: limits of each worker.
        access: folders that it may read; None if the kernel has no Landlock.
        has_extras: whether the extras are loaded.
    """

    tasks: Mapping[str, Function]
    limits: WorkerLimits
    access: FileAccess | None
    has_extras: bool


def run_forked_worker(connection: socket.socket, job: WorkerJob, template: int) -> NoReturn:
    """Become a worker, in a newly forked process. It never returns.

    Args:
        connection: the worker's end of the socket to the front.
        job: settings of the worker.
        template: process id of the parent.
    """
    status = 1
    try:
        die_with_parent(template)
        _write_to_nowhere()
        largest = os.sysconf("SC_OPEN_MAX")  # the template's, above the limit set below
        refused = [*apply_limits(job.limits), *confine(job.access)]
        _close_all_but(connection, largest)
        fields = {"refused_limits": refused, "has_extras": job.has_extras}
        send(connection, Frame(Kind.READY, fields))
        _serve(connection, job)
    except (EOFError, OSError, ParentGoneError):  # the front is gone
        status = 0
    finally:
        os._exit(status)  # no handlers and buffers of the template may run here


def _write_to_nowhere() -> None:
    """Keep libraries from writing to the log, which may quote a patient's data."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # not the template's


def _close_all_but(connection: socket.socket, largest: int) -> None:
    kept = connection.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, largest)


def _serve(connection: socket.socket, job: WorkerJob) -> NoReturn:
    reader, timer = FrameReader(), ProcessorTimer()
    while True:
        if not select.select([connection], [], [], IDLE_S)[0]:
            give_back_free_memory()  # kept for the next task while tasks arrive
        frame = receive(connection, reader)
        refuse_rest(frame, [Kind.TASK])
        answer, blobs = _answer(frame, job, timer)
        try:
            send(connection, answer)
        finally:
            for blob in blobs:
                blob.close()
        del frame, answer, blobs
        gc.collect()


def _answer(frame: Frame, job: WorkerJob, timer: ProcessorTimer) -> tuple[Frame, list[Blob]]:
    """Run one task; return any exception as a frame."""
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    if frame.fields["is_costly"]:
        lower_priority_for_costly_task(job.limits)
    blobs: list[Blob] = []
    try:
        timer.start(frame.fields["cpu_s"])
        kind, fields, body, blobs = _run(frame, job.tasks, timer)
    except Refusal as refusal:
        kind, body = Kind.REFUSED, b""
        fields = {"fields": dict(refusal.fields), "is_last": refusal.is_last}
    except NeedsMoreTime as more:
        kind, fields, body = Kind.MORE, {"cpu_needed_s": min(more.cpu_s, _A_DAY_S)}, b""
    except MemoryError:
        kind, fields, body = Kind.MEMORY, {}, b""
    except Exception as error:  # the border: the caller gets an answer
        is_memory = isinstance(error, OSError) and error.errno in _MEMORY_ERRORS
        kind, body = (Kind.MEMORY if is_memory else Kind.FAILED), b""
        fields = {} if is_memory else described(error)
    finally:
        timer.stop()
    fields["wall_s"] = time.perf_counter() - began_s
    fields["cpu_used_s"] = time.process_time() - cpu_began_s
    descriptors = tuple(blob.fileno() for blob in blobs)
    return Frame(kind, fields, body, descriptors), blobs


def _run(
    frame: Frame, tasks: Mapping[str, Function], timer: ProcessorTimer
) -> tuple[Kind, dict[str, Any], bytes, list[Blob]]:
    """Call the function and copy its answer into shared memory."""
    task = Task(
        fields=frame.fields["fields"],
        body=frame.body,
        blobs=_received(frame),
        cpu_s=frame.fields["cpu_s"],
        set_timer=timer.start,
    )
    try:
        answer = tasks[frame.fields["task"]](task)
        if not isinstance(answer, Answer):
            raise TypeError("the task's function returned no answer")
        blobs = [Blob.of(piece) for piece in answer.blobs]
    finally:
        task.close()
    fields = {
        "fields": dict(answer.fields),
        "blob_bytes": [blob.size_bytes for blob in blobs],
        "is_last": answer.is_last,
    }
    return Kind.DONE, fields, answer.body, blobs


def _received(frame: Frame) -> list[Blob]:
    blobs: list[Blob] = []
    try:
        for descriptor in frame.descriptors:
            blobs.append(Blob.received(descriptor, _MOST_INPUT_BYTES))
    except BlobError as error:
        raise FrameError(str(error)) from None
    return blobs


def described(error: Exception) -> dict[str, Any]:
    """Return type and place of an exception; its message may quote a patient's data."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_TOLD:]
    where = [f"{os.path.basename(each.filename)}:{each.lineno} {each.name}" for each in frames]
    return {"error_type": type(error).__name__, "where": where}
