"""The bar that a person watches while a run goes on, on stderr: stdout is the run's result."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """Steps done of all steps, with the last loss that was read."""

    def __init__(self, title: str, steps: int, done: int, *, shown: bool) -> None:
        """Prepare the bar; it is drawn within a ``with`` block."""
        self._title = title
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(),
            TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
            TimeRemainingColumn(), console=Console(stderr=True), disable=not shown,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=steps, completed=done)

    def __enter__(self) -> ProgressBar:
        """Draw."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last picture standing."""
        self._bar.stop()

    def show_step(self, step: int) -> None:
        """Move to a step."""
        self._bar.update(self._task, completed=step)

    def show_loss(self, loss: float) -> None:
        """Write the loss beside the title."""
        self._bar.update(self._task, description=f"{self._title} loss {loss:.4f}")
