"""Notices changes of the machine that a service runs on: clock, processors, memory.

It reports each in one sentence and does nothing else. A clock that jumps makes the times of logs,
audit entries and keys doubtful. A quota that changes leaves the model with the threads of its
start. In a container that is too small the kernel kills processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.container_limits import ContainerLimits, memory_kills, read_limits
from service.memory_allowance import BYTES_BESIDE_WORKERS, MIB, workers_bytes

LEAST_JUMP_S = 2.0
"""Time servers that slew move a clock by less than a millisecond a second."""


@dataclass(frozen=True)
class MachineRemark:
    """Something that happened.

    Attributes:
        kind: `clock`, `cpu` or `memory`.
        event: name of the log event.
        sentence: what it means and what to do.
    """

    kind: str
    event: str
    sentence: str
    fields: dict[str, Any] = field(default_factory=dict)


KINDS = ("clock", "cpu", "memory")


class MachineWatch:
    """Compares the machine with what it was at the last look."""

    def __init__(
        self,
        limits: Callable[[], ContainerLimits] = read_limits,
        kills: Callable[[], int] = memory_kills,
        wall_s: Callable[[], float] = time.time,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look for the first time.

        Args:
            limits: reads the container's limits.
            kills: reads how many processes the kernel ended for want of memory.
            wall_s: reads the clock.
            steady_s: reads a clock that nobody can set.
        """
        self._read_limits, self._read_kills = limits, kills
        self._wall_s, self._steady_s = wall_s, steady_s
        self._limits, self._kills = limits(), kills()
        self._offset_s = wall_s() - steady_s()

    def look(self) -> list[MachineRemark]:
        """Return what happened since the last look."""
        found = [self._clock(), self._processors(), self._memory()]
        return [remark for remark in found if remark is not None]

    def at_start(self, workers: int) -> list[MachineRemark]:
        """Return what is too small from the beginning.

        Args:
            workers: image workers that are started.
        """
        limit_bytes = self._limits.memory_bytes
        needed_bytes = BYTES_BESIDE_WORKERS + workers_bytes(workers)
        if limit_bytes is None or limit_bytes >= needed_bytes:
            return []
        sentence = (
            f"The container may use {limit_bytes // MIB} MiB of memory and large X-rays can take "
            f"{needed_bytes // MIB} MiB; processes will be killed then. Raise the limit."
        )
        figures = {"limit_bytes": limit_bytes, "needed_bytes": needed_bytes}
        return [MachineRemark("memory", "memory limit too small", sentence, figures)]

    def _clock(self) -> MachineRemark | None:
        offset_s = self._wall_s() - self._steady_s()
        moved_s, self._offset_s = offset_s - self._offset_s, offset_s
        if abs(moved_s) < LEAST_JUMP_S:
            return None
        sentence = (
            f"The machine's clock was moved by {moved_s:+.0f} seconds. Times in the log, in audit "
            "entries and of expiring keys follow the clock; timeouts and answers do not."
        )
        return MachineRemark("clock", "clock moved", sentence, {"seconds": round(moved_s, 1)})

    def _processors(self) -> MachineRemark | None:
        limits = self._read_limits()
        before, self._limits = self._limits, limits
        if limits.cpus == before.cpus:
            return None
        sentence = (
            "The container's quota of processors changed, and the model keeps the threads of its "
            "start. Reload it, and they follow; image workers follow at the next start."
        )
        figures = {"cpus_before": before.cpus, "cpus": limits.cpus}
        return MachineRemark("cpu", "cpu quota changed", sentence, figures)

    def _memory(self) -> MachineRemark | None:
        kills = self._read_kills()
        new, self._kills = kills - self._kills, kills
        if new <= 0:
            return None
        sentence = (
            "The kernel killed processes of this container for want of memory. Raise its memory "
            "limit, or lower --image-workers, --queue-limit-bytes or --max-pixels."
        )
        figures = {"killed": new, "limit_bytes": self._limits.memory_bytes}
        return MachineRemark("memory", "killed for want of memory", sentence, figures)
