"""Detect changes of the machine: clock, processors, memory.

It only reports each, in one sentence. A clock that jumps makes the times of logs, audit entries and
keys doubtful. When a CPU quota changes, the model keeps its number of threads. In a container that
is too small the kernel kills processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.container_limits import ContainerLimits, memory_kills, read_limits
from service.memory_allowance import BYTES_BESIDE_WORKERS, MIB, workers_bytes

LEAST_JUMP_S = 2.0
"""Least jump of the clock that is reported; slewing time servers move it by less than a millisecond
a second."""


@dataclass(frozen=True)
class MachineRemark:
    """A change of the machine.

    Attributes:
        kind: `clock`, `cpu` or `memory`.
        event: name of the log event.
        sentence: its consequence and what to do.
    """

    kind: str
    event: str
    sentence: str
    fields: dict[str, Any] = field(default_factory=dict)


KINDS = ("clock", "cpu", "memory")


class MachineWatch:
    """Compares the machine with its state at the previous look."""

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
            kills: reads how many processes the kernel killed for lack of memory.
            wall_s: reads the clock.
            steady_s: reads a monotonic clock.
        """
        self._read_limits, self._read_kills = limits, kills
        self._wall_s, self._steady_s = wall_s, steady_s
        self._limits, self._kills = limits(), kills()
        self._offset_s = wall_s() - steady_s()

    def look(self) -> list[MachineRemark]:
        """Return the changes since the previous look."""
        found = [self._clock(), self._processors(), self._memory()]
        return [remark for remark in found if remark is not None]

    def at_start(self, workers: int) -> list[MachineRemark]:
        """Return what is too small at the start.

        Args:
            workers: number of image workers.
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
