"""The tasks of the service, and empty tasks that only pass between processes."""

from __future__ import annotations

from service.imaging import worker_tasks
from service.workers.task import Answer, Function, Task

_PICTURE = bytes(range(256)) * (1 << 15)  # 8 MiB: 2048 x 2048, 16 bits


def nothing(task: Task) -> Answer:
    """Return nothing."""
    return Answer()


def take(task: Task) -> Answer:
    """Map the received picture."""
    return Answer({"bytes": len(task.map(0))})


def give(task: Task) -> Answer:
    """Return a picture in shared memory."""
    return Answer(blobs=[_PICTURE])


def last(task: Task) -> Answer:
    """Request a replacement of this worker."""
    return Answer(is_last=True)


TASKS: dict[str, Function] = {
    **worker_tasks.TASKS,
    **{function.__name__: function for function in (nothing, take, give, last)},
}
warm_up = worker_tasks.warm_up
warm_up_extras = worker_tasks.warm_up_extras
