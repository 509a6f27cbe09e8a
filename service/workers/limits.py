"""Limits of a worker, set in the worker itself before it reads an untrusted byte.

All of them work without root and in a read-only container. The worker reports every limit that the
kernel refuses, and the front logs it.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MIB = 1 << 20
_CLOCK_OF_TICKS = ~0 << 3
"""Linux's CPUCLOCK_PROF of the calling process: user and system time, in ticks."""


@dataclass(frozen=True)
class WorkerLimits:
    """Limits of one worker, beside each task's CPU time and wall time.

    Attributes:
        memory_bytes: address space beyond that of the warmed template.
        file_bytes: largest shared memory that it may write.
        open_files: most open descriptors.
        niceness: niceness above the front's.
        costly_niceness: further niceness for a costly task, after which the worker is replaced.
        oom_score: addition to the front's `oom_score_adj`, so that the kernel kills a worker first.
        tasks: number of tasks after which it is replaced.
    """

    memory_bytes: int = 1024 * _MIB
    file_bytes: int = 256 * _MIB
    open_files: int = 64
    niceness: int = 5
    costly_niceness: int = 5
    oom_score: int = 500
    tasks: int = 1000

    @classmethod
    def for_pictures(cls, max_pixels: int) -> WorkerLimits:
        """Return limits for pictures up to a number of pixels.

        The most expensive X-ray, a TIFF with three channels, takes 18 bytes a pixel
        (`python -m benchmarks.service.image_memory`).
        """
        memory_bytes = 128 * _MIB + 24 * max_pixels
        file_bytes = 64 * _MIB + 6 * max_pixels
        return cls(
            memory_bytes=max(memory_bytes, 512 * _MIB), file_bytes=max(file_bytes, 128 * _MIB)
        )

    def as_fields(self) -> dict[str, Any]:
        """Return the limits as JSON."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> WorkerLimits:
        """Return the limits that `as_fields` wrote."""
        return cls(**fields)


def apply_limits(limits: WorkerLimits) -> list[str]:
    """Set the limits of this process irrevocably.

    Returns:
        Names of the limits that the kernel refused.
    """
    steps: dict[str, Callable[[], None]] = {
        "niceness": lambda: _lower_priority(limits.niceness),
        "oom_score": lambda: _offer_to_oom_killer(limits.oom_score),
        "address_space": lambda: _set(
            resource.RLIMIT_AS, address_space_bytes() + limits.memory_bytes
        ),
        "file_size": lambda: _set(resource.RLIMIT_FSIZE, limits.file_bytes),
        "open_files": lambda: _set(resource.RLIMIT_NOFILE, limits.open_files),
        "core": lambda: _set(resource.RLIMIT_CORE, 0),
    }
    refused = []
    for name, step in steps.items():
        try:
            step()
        except (OSError, ValueError):
            refused.append(name)
    return refused


def address_space_bytes() -> int:
    """Return the size of this process's address space (VmSize).

    Raises:
        OSError: there is no `/proc`.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


class ProcessorTimer:
    """Ends this process when a task has used its CPU time, even in native code.

    `ITIMER_PROF` counts the time of all threads, in ticks of some milliseconds, and by default
    `SIGPROF` ends a process without running any code. `RLIMIT_CPU` (`SIGXCPU`), a second safeguard,
    counts whole seconds of the process's life. It counts by ticks, which exceed
    `time.process_time()` over many short tasks, so `RLIMIT_CPU`'s own clock is read here.
    """

    def start(self, seconds: float) -> None:
        """Start or restart counting."""
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, max(seconds, 0.001))
        backstop_s = math.ceil(processor_ticks_s() + seconds) + 1
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        with contextlib.suppress(OSError, ValueError):  # the container's limit is lower
            resource.setrlimit(resource.RLIMIT_CPU, (backstop_s, hard))

    def stop(self) -> None:
        """Stop counting."""
        signal.setitimer(signal.ITIMER_PROF, 0)


def processor_ticks_s() -> float:
    """Return the CPU time of this process as `RLIMIT_CPU` counts it, in seconds."""
    return time.clock_gettime(_CLOCK_OF_TICKS)


def _set(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _lower_priority(niceness: int) -> None:
    current = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, min(19, current + niceness))


def lower_priority_for_costly_task(limits: WorkerLimits) -> None:
    """Lower the priority; only root could raise it again."""
    with contextlib.suppress(OSError):
        _lower_priority(limits.costly_niceness)


def _offer_to_oom_killer(score: int) -> None:
    path = Path("/proc/self/oom_score_adj")
    current = int(path.read_text(encoding="ascii"))
    path.write_text(str(min(1000, current + score)), encoding="ascii")
