"""How many threads the model gets on a CPU when the operator does not set a number.

One core stays free for the other threads of the process, which decode uploads and render answers.
This is worth more than it looks: OpenMP's threads meet at a barrier after every operation, so one
that waits for a core holds up all of them. Measured on 2 cores beside another busy process, for
a 1024 x 1024 PNG with overlay: 94 ms with 1 thread, 3337 ms with 2 (median of 15).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from service.container_limits import ContainerLimits, read_limits
from service.memory_allowance import workers_within_memory

MOST_FRONTS = 8

MOST_THREADS = 8
"""The compact model's operations take well under a millisecond; more threads only wait."""


def model_threads(limits: ContainerLimits | None = None) -> int:
    """Return the number of threads: the allowed CPUs less one, 1 to `MOST_THREADS`.

    Args:
        limits: the container's; read now when None. PyTorch by itself counts the cores of the
            host, and a container with a limit of 2 on 64 cores would be throttled to a halt.
    """
    return max(1, min(_allowed_cpus(limits) - 1, MOST_THREADS))


def models_at_a_time(threads: int, limits: ContainerLimits | None = None) -> int:
    """Return how many models may compute at a time, one at least: those that the CPUs hold.

    Args:
        threads: CPU threads of each model.
        limits: the container's; read now when None.
    """
    return max(1, (_allowed_cpus(limits) - 1) // threads)


def image_workers(limits: ContainerLimits | None = None, *, gpus: int = 0, models: int = 1) -> int:
    """Return how many image workers there are.

    Half of the allowed CPUs, 2 to `MOST_THREADS`: an X-ray takes them a third of the model's time,
    and more of them only take the model's core. Two at least, so that one costly upload does not
    hold up everybody else. A GPU leaves them all CPUs, and they yield to the serving process. Less
    where the container's memory does not hold so many.

    Args:
        limits: the container's; read now when None.
        gpus: GPUs that the model runs on; 0 where it runs on CPUs.
        models: models that are loaded.
    """
    limits = read_limits() if limits is None else limits
    allowed = _allowed_cpus(limits)
    wanted = max(2, allowed if gpus else min(allowed // 2, MOST_THREADS))
    return workers_within_memory(wanted, limits.memory_bytes, gpus, models)


def front_processes(limits: ContainerLimits | None = None, *, gpus: int = 0) -> int:
    """Return how many processes hold callers' connections; 1 for the serving process itself.

    A model on the CPU is slower than what one process answers. Beside a GPU there is one for each
    four CPUs, of which image workers need most (`python -m benchmarks.service.front_alone`).

    Args:
        limits: the container's; read now when None.
        gpus: GPUs that the model runs on; 0 where it runs on CPUs.
    """
    return max(1, min(_allowed_cpus(limits) // 4, MOST_FRONTS)) if gpus else 1


def gpus_shown(folder: Path = Path("/dev")) -> int:
    """Return how many NVIDIA GPUs this machine shows, without asking its driver.

    Args:
        folder: where devices stand.
    """
    return sum(name.name[len("nvidia") :].isdecimal() for name in folder.glob("nvidia[0-9]*"))


def _allowed_cpus(limits: ContainerLimits | None) -> int:
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:  # macOS
        allowed = os.cpu_count() or 1
    cpus = (read_limits() if limits is None else limits).cpus
    return allowed if cpus is None else min(allowed, math.ceil(cpus))
