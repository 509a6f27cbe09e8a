"""The reason for a worker's end, from its exit status."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from service.workers.errors import EndReason

_PROCESSOR_SIGNALS = (signal.SIGPROF, signal.SIGXCPU)
_CRASH_SIGNALS = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
    signal.SIGTRAP,
    signal.SIGSYS,
)
_NEAR_LIMIT = 0.75
"""Share of the memory budget in use at which a crash counts as the memory limit."""


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    Attributes:
        status: exit code, or the negative number of the signal; None if it never started.
        cpu_s: CPU time of its whole life, seconds.
        peak_bytes: its largest resident memory.
    """

    status: int | None
    cpu_s: float = 0.0
    peak_bytes: int = 0


def reason_of(ending: Ending, ours: EndReason | None, memory_bytes: int) -> EndReason:
    """Return why a worker ended.

    Args:
        ending: exit status and usage from the kernel.
        ours: the front's reason to kill it, if it did.
        memory_bytes: its memory budget; beyond it the kernel only fails allocations.

    Returns:
        The reason. A status that the worker's own code never gives counts as a crash, because
        native code may call `exit`.
    """
    status = ending.status
    if status is None:
        return EndReason.NOT_STARTED
    if ours is not None and status in (-signal.SIGKILL, 0):
        return ours
    if -status in _PROCESSOR_SIGNALS:
        return EndReason.CPU_LIMIT
    if -status == signal.SIGXFSZ:
        return EndReason.MEMORY_LIMIT
    if -status in _CRASH_SIGNALS and ending.peak_bytes > _NEAR_LIMIT * memory_bytes:
        return EndReason.MEMORY_LIMIT
    if status < 0 and -status not in _CRASH_SIGNALS:
        return EndReason.KILLED
    return EndReason.CRASH
