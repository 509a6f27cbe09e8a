"""How many threads the model gets on a CPU, when the operator does not say.

One core stays free for the other threads of the process, which decode uploads and draw answers.
This is worth more than it looks: OpenMP's threads meet at a barrier after every operation, so one
that waits for a core holds up all of them. Measured on 2 cores beside another busy process, for
a 1024 x 1024 PNG with overlay: 94 ms with 1 thread, 3337 ms with 2 (median of 15).
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""CPU limit of the container (cgroup v2): `quota period` in microseconds, or `max period`."""

MOST_THREADS = 8
"""The compact model's operations take well under a millisecond; more threads only wait."""

IMAGE_THREAD_NICENESS = 5
"""A third of the usual share of a contended core, enough where nobody else wants it."""


def model_threads(quota_file: Path = CGROUP_QUOTA) -> int:
    """Returns the number of threads: the allowed CPUs less one, 1 to `MOST_THREADS`.

    Args:
        quota_file: where the container's limit stands; PyTorch by itself counts the cores of the
            host, and a container with a limit of 2 on 64 cores would be throttled to a halt.
    """
    return max(1, min(_allowed_cpus(quota_file) - 1, MOST_THREADS))


def image_threads(quota_file: Path = CGROUP_QUOTA) -> int:
    """Returns how many image threads there are: half of the allowed CPUs, 1 to `MOST_THREADS`.

    They decode, prepare and draw. An X-ray takes them a third of the model's time; more of them
    only take the model's core. Measured with a faster model, which they kept busy, and 16 callers
    on 2 cores: 23.3 masks a second with 1 thread, 22.7 with 2.

    Args:
        quota_file: where the container's limit stands.
    """
    return max(1, min(_allowed_cpus(quota_file) // 2, MOST_THREADS))


def yield_to_the_model() -> None:
    """Lowers the priority of the calling thread, so that it never takes the model's core.

    For image threads: with two of them at work beside one thread of the model on two
    cores, the model would else wait a third of the time. On Linux a thread has a priority of its
    own; elsewhere nothing is changed, nor where a container forbids it. The niceness is added to
    that of the process (`Nice=` of a systemd unit): only root may take any of it away.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            current = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, current + IMAGE_THREAD_NICENESS))


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
