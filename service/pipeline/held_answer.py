"""An answer before it is sent: its body stays in the shared memory that its worker wrote."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from service.imaging.task_data import AnswerFacts
from service.workers.shared_memory import Blob


@dataclass(frozen=True)
class HeldAnswer:
    """An answer, and a context manager that releases its memory.

    Its receiver closes it. A forgotten one is closed by the garbage collector.
    """

    facts: AnswerFacts  # facts about the answer beside its bytes
    body: Blob

    def close(self) -> None:
        """Release the memory; may be called more than once."""
        self.body.close()

    def __enter__(self) -> HeldAnswer:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Release the memory."""
        self.close()
