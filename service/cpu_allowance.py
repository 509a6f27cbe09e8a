"""How many threads the model gets on a CPU, when the operator does not say.

One core stays free for the other threads of the process, which decode uploads and render answers.
This is worth more than it looks: OpenMP's threads meet at a barrier after every operation, so one
that waits for a core holds up all of them. Measured on 2 cores beside another busy process, for
a 1024 x 1024 PNG with overlay: 94 ms with 1 thread, 3337 ms with 2 (median of 15).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from service.memory_allowance import CGROUP_MEMORY, workers_within_memory

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""CPU limit of the container (cgroup v2): `quota period` in microseconds, or `max period`."""

MOST_FRONTS = 8

MOST_THREADS = 8
"""The compact model's operations take well under a millisecond; more threads only wait."""


def model_threads(quota_file: Path = CGROUP_QUOTA) -> int:
    """Return the number of threads: the allowed CPUs less one, 1 to `MOST_THREADS`.

    Args:
        quota_file: where the container's limit stands; PyTorch by itself counts the cores of the
            host, and a container with a limit of 2 on 64 cores would be throttled to a halt.
    """
    return max(1, min(_allowed_cpus(quota_file) - 1, MOST_THREADS))


def models_at_a_time(threads: int, quota_file: Path = CGROUP_QUOTA) -> int:
    """Return how many models may compute at a time, one at least: those that the CPUs hold.

    Args:
        threads: CPU threads of each model.
        quota_file: where the container's limit of processors stands.
    """
    return max(1, (_allowed_cpus(quota_file) - 1) // threads)


def image_workers(
    quota_file: Path = CGROUP_QUOTA,
    memory_file: Path = CGROUP_MEMORY,
    *,
    gpus: int = 0,
    models: int = 1,
) -> int:
    """Return how many image workers there are.

    Half of the allowed CPUs, 2 to `MOST_THREADS`: an X-ray takes them a third of the model's time,
    and more of them only take the model's core. Two at least, so that one costly upload does not
    hold up everybody else. A GPU leaves them all CPUs, and they yield to the serving process. Less
    where the container's memory does not hold so many.

    Args:
        quota_file: where the container's limit of processors stands.
        memory_file: where its limit of memory stands.
        gpus: GPUs that the model runs on; 0 where it runs on CPUs.
        models: models that are loaded.
    """
    allowed = _allowed_cpus(quota_file)
    wanted = max(2, allowed if gpus else min(allowed // 2, MOST_THREADS))
    return workers_within_memory(wanted, memory_file, gpus, models)


def front_processes(quota_file: Path = CGROUP_QUOTA, *, gpus: int = 0) -> int:
    """Return how many processes hold callers' connections; 1 for the serving process itself.

    A model on the CPU is slower than what one process answers. Beside a GPU each takes a fourth of
    what its X-rays take the image workers (`python -m benchmarks.service.front_alone`).

    Args:
        quota_file: where the container's limit of processors stands.
        gpus: GPUs that the model runs on; 0 where it runs on CPUs.
    """
    return max(1, min(_allowed_cpus(quota_file) // 4, MOST_FRONTS)) if gpus else 1


def gpus_shown(folder: Path = Path("/dev")) -> int:
    """Return how many NVIDIA GPUs this machine shows, without asking its driver.

    Args:
        folder: where devices stand.
    """
    return sum(name.name[len("nvidia") :].isdecimal() for name in folder.glob("nvidia[0-9]*"))


def _allowed_cpus(quota_file: Path) -> int:
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:  # macOS
        allowed = os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return min(allowed, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup v2, or no limit ("max")
        return allowed
