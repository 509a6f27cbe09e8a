"""An answer on its way to its caller: its body stays in the memory that its worker wrote."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from service.imaging.task_data import AnswerFacts
from service.workers.shared_memory import Blob


@dataclass(frozen=True)
class HeldAnswer:
    """An answer, ready to be sent; a context manager that gives its memory back.

    Whoever gets it closes it. A forgotten one is closed when it is collected.
    """

    facts: AnswerFacts  # what is known of it beside its bytes
    body: Blob

    def close(self) -> None:
        """Give the memory back; may be called more than once."""
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
        """Give the memory back."""
        self.close()
