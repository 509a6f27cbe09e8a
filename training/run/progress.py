"""The progress bar of a run on stderr, because stdout has the run's result."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """A bar of finished steps with the last logged loss."""

    def __init__(self, title: str, steps: int, done: int, *, shown: bool) -> None:
        """Prepare the bar; it is shown within a ``with`` block."""
        self._title = title
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(),
            TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
            TimeRemainingColumn(), console=Console(stderr=True), disable=not shown,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=steps, completed=done)

    def __enter__(self) -> ProgressBar:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Keep the last state on the terminal."""
        self._bar.stop()

    def show_step(self, step: int) -> None:
        """Move to a step."""
        self._bar.update(self._task, completed=step)

    def show_loss(self, loss: float) -> None:
        """Write the loss beside the title."""
        self._bar.update(self._task, description=f"{self._title} loss {loss:.4f}")
