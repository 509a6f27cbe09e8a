"""Input and result of a task's function in a worker.

def decode(task: Task) -> Answer:
    task.needs_cpu(budget_of_header)     # once the header says what honest work costs
    ...
    return Answer({"width": 2048}, blobs=[memoryview(pixels)])

TASKS = {"decode": decode}
def warm_up() -> None: ...               # optional: imports and tables, before forking
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.workers.shared_memory import Blob


class Refusal(Exception):  # noqa: N818  (an answer to the caller, no fault)
    """Raised by a task's function to refuse its input.

    Attributes:
        fields: JSON for the front, which gets it as `TaskRefused.fields`.
        is_last: whether the worker should be replaced afterwards.
    """

    def __init__(self, fields: Mapping[str, Any], is_last: bool = False) -> None:
        """Keep the refusal."""
        super().__init__("refused")
        self.fields = fields
        self.is_last = is_last


class NeedsMoreTime(Exception):  # noqa: N818
    """The task is costly: the front queues it again as such.

    Attributes:
        cpu_s: CPU time that it needs, seconds.
    """

    def __init__(self, cpu_s: float) -> None:
        """Keep the need."""
        super().__init__(f"needs {cpu_s:.1f} s")
        self.cpu_s = cpu_s


@dataclass
class Task:
    """One task.

    Attributes:
        fields: JSON of the caller.
        body: raw bytes of the caller.
        blobs: shared memory of the caller.
        cpu_s: granted CPU time, seconds.
    """

    fields: Mapping[str, Any]
    body: bytes
    blobs: Sequence[Blob]
    cpu_s: float
    set_timer: Callable[[float], None]
    _mappings: list[mmap.mmap] = field(default_factory=list)

    def map(self, index: int) -> memoryview:
        """Return a blob's bytes without copying them; valid until the task ends."""
        if not self.blobs[index].size_bytes:
            return memoryview(b"")
        mapping = self.blobs[index].map()
        self._mappings.append(mapping)
        return memoryview(mapping)

    def needs_cpu(self, seconds: float) -> None:
        """State the CPU time that the task needs from now on, when its input is known.

        The timer is set to it; it is usually less than the first grant.

        Raises:
            NeedsMoreTime: it is more than granted; the function must not catch this.
        """
        if seconds > self.cpu_s:
            raise NeedsMoreTime(seconds)
        self.set_timer(seconds)

    def close(self) -> None:
        """Release the task's shared memory."""
        for mapping in self._mappings:
            try:
                mapping.close()
            except BufferError:  # a view still exists; the mapping ends with it
                continue
        self._mappings.clear()
        for blob in self.blobs:
            blob.close()
        self.blobs = ()


@dataclass(frozen=True)
class Answer:
    """The result of a task's function.

    Attributes:
        fields: JSON.
        body: raw bytes, at most a MiB.
        blobs: bytes for shared memory, each contiguous.
        is_last: whether the worker should be replaced afterwards.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""
    blobs: Sequence[bytes | bytearray | memoryview] = ()
    is_last: bool = False


Function = Callable[[Task], Answer]
