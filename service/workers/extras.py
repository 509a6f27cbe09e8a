"""Extras: libraries that few tasks need, loaded into all workers before the first such task.

The libraries for answers in DICOM take much memory, and most installations never send such an
answer. The template loads them at the first request, and workers are replaced by forks that have
them.
"""

from __future__ import annotations

import asyncio

from service.workers.errors import WorkerError


class Extras:
    """Whether a task has needed the extras, and the wait until workers have them."""

    def __init__(self) -> None:
        """Start without a need."""
        self._arrival: asyncio.Future[None] | None = None

    @property
    def are_wanted(self) -> bool:
        """Whether each new template must load them."""
        return self._arrival is not None

    def want(self) -> bool:
        """Note that they are needed; return whether that is new."""
        is_news = self._arrival is None
        if is_news:
            self._arrival = asyncio.get_running_loop().create_future()
        return is_news

    async def wait(self) -> None:
        """Wait until workers have them, after `want`.

        Raises:
            WorkerError: they cannot be loaded now.
        """
        if self._arrival is not None:
            await asyncio.shield(self._arrival)  # a caller who leaves does not cancel it for others

    def note_held(self) -> None:
        """Resume the waiting tasks: every worker that gets a task from now on has the extras."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def note_failed(self, error: WorkerError) -> None:
        """Fail the waiting tasks; the next that needs the extras makes the template try again."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.done():
            arrival.set_exception(error)
            arrival.exception()  # marks the exception as retrieved, even if nobody waits
