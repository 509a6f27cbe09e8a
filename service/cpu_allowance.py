"""Numbers of threads and processes when the operator does not set them.

One core stays free for the other threads of the process, which decode uploads and render answers.
This matters, because OpenMP's threads meet at a barrier after every operation, so one that waits
for a core delays all of them.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from service.container_limits import ContainerLimits, read_limits
from service.memory_allowance import workers_within_memory

MOST_FRONTS = 8

MOST_THREADS = 8
"""Most threads of a model: the compact model's operations take well under a millisecond."""


def model_threads(limits: ContainerLimits | None = None) -> int:
    """Return the number of threads: the allowed CPUs less one, 1 to `MOST_THREADS`.

    Args:
        limits: the container's; read now when None. PyTorch itself counts the cores of the host; a
            container limited to 2 of 64 cores would be throttled to a halt.
    """
    return max(1, min(allowed_cpus(limits) - 1, MOST_THREADS))


def models_at_a_time(threads: int, limits: ContainerLimits | None = None) -> int:
    """Return how many models may compute at a time: as many as the CPUs hold, at least one.

    Args:
        threads: CPU threads of each model.
        limits: the container's; read now when None.
    """
    return max(1, (allowed_cpus(limits) - 1) // threads)


def image_workers(limits: ContainerLimits | None = None, *, gpus: int = 0, models: int = 1) -> int:
    """Return how many image workers there are.

    It is half of the allowed CPUs, 2 to `MOST_THREADS`: an X-ray takes a worker a third of the
    model's time, and more workers would only take the model's core. Two is the least, so that one
    costly upload does not delay everybody else. Beside a GPU workers may use all CPUs, and they
    yield to the serving process. There are fewer if the container's memory does not hold so many.

    Args:
        limits: the container's; read now when None.
        gpus: GPUs that the model runs on; 0 where it runs on CPUs.
        models: models that are loaded.
    """
    limits = read_limits() if limits is None else limits
    allowed = allowed_cpus(limits)
    wanted = max(2, allowed if gpus else min(allowed // 2, MOST_THREADS))
    return workers_within_memory(wanted, limits.memory_bytes, gpus, models)


def front_processes(limits: ContainerLimits | None = None, *, gpus: int = 0) -> int:
    """Return how many processes hold callers' connections; 1 for the serving process itself.

    One process answers faster than a model on the CPU computes. Beside a GPU there is one front for
    each four CPUs, because image workers need most of them
    (`python -m benchmarks.service.front_alone`).

    Args:
        limits: the container's; read now when None.
        gpus: GPUs that the model runs on; 0 where it runs on CPUs.
    """
    return max(1, min(allowed_cpus(limits) // 4, MOST_FRONTS)) if gpus else 1


def gpus_shown(folder: Path = Path("/dev")) -> int:
    """Return how many NVIDIA GPUs this machine shows, without calling the driver.

    Args:
        folder: folder of device files.
    """
    return sum(name.name[len("nvidia") :].isdecimal() for name in folder.glob("nvidia[0-9]*"))


def allowed_cpus(limits: ContainerLimits | None = None) -> int:
    """Return how many CPUs this process may use: its affinity and the container's quota."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:  # macOS
        allowed = os.cpu_count() or 1
    cpus = (read_limits() if limits is None else limits).cpus
    return allowed if cpus is None else min(allowed, math.ceil(cpus))
