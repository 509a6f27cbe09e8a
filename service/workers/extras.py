"""Libraries that few tasks need: loaded into all workers once the first such task comes.

The libraries behind an answer in DICOM take 90 MB, and most installations never give one. The
template loads them when they are first wanted, and workers are replaced by forks that hold them.
"""

from __future__ import annotations

import asyncio

from service.workers.errors import WorkerError


class Extras:
    """Whether some task has wanted them, and the wait until workers hold them."""

    def __init__(self) -> None:
        """Nobody wants them yet."""
        self._arrival: asyncio.Future[None] | None = None

    @property
    def are_wanted(self) -> bool:
        """Whether each new template is to load them."""
        return self._arrival is not None

    def want(self) -> bool:
        """Note that they are wanted; whether that is news."""
        is_news = self._arrival is None
        if is_news:
            self._arrival = asyncio.get_running_loop().create_future()
        return is_news

    async def wait(self) -> None:
        """Wait until workers hold them, once they are wanted.

        Raises:
            WorkerError: they cannot be loaded now.
        """
        if self._arrival is not None:
            await asyncio.shield(self._arrival)  # a caller who leaves takes it from nobody else

    def note_held(self) -> None:
        """Let the waiting tasks go on: every worker that takes a task from now on holds them."""
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def note_failed(self, error: WorkerError) -> None:
        """Fail the waiting tasks; the next one that wants them lets the template try again."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.done():
            arrival.set_exception(error)
            arrival.exception()  # taken note of, even where nobody waits
