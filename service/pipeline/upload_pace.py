"""The processor time for one caller's uploads while other callers are active.

The front parses uploads at a higher priority than image workers have
(`python -m benchmarks.service.front_costs` prints the time for each megabyte). Without a limit, one
caller's large uploads took the processors from the image workers, and other callers waited several
times as long. So parsing and storing the uploads of one caller may take a twentieth of the
processors while another caller is active; receiving them takes about the same again. A lone caller
is never slowed down, and on a machine with many processors no caller is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from service.caller_turns import RecentCallers
from service.cpu_allowance import allowed_cpus

SHARE_OF_A_CPU = 0.05
"""Part of a processor for one caller's uploads, for each allowed processor. It suffices for more
bytes than the image workers can decode."""

ABOUT_S = 1.0
"""Seconds after its latest request during which a caller counts as active."""

UNNOTICED_S = 0.05
"""Processor time that a caller may use in advance, so that a single X-ray is not slowed down."""


class UploadPace:
    """Tracks the active callers of one event loop and the time of their uploads."""

    def __init__(
        self, now: Callable[[], float] = time.monotonic, cpus: Callable[[], int] = allowed_cpus
    ) -> None:
        """Start without callers.

        Args:
            now: monotonic clock, seconds.
            cpus: counts the allowed processors.
        """
        self.most_share = min(1.0, SHARE_OF_A_CPU * cpus())
        self._now = now
        self._running: Counter[str] = Counter()
        self._about = RecentCallers(ABOUT_S, now)
        self._free_at: dict[str, float] = {}

    @contextmanager
    def running(self, caller: str) -> Generator[None, None, None]:
        """Count a request as running."""
        self._running[caller] += 1
        try:
            yield
        finally:
            self._about.note(caller)
            self._running[caller] -= 1
            if not self._running[caller]:  # forget callers without requests
                del self._running[caller]
                self._free_at.pop(caller, None)

    def pause_after(self, caller: str, spent_s: float) -> float:
        """Return how long an upload waits for its next piece.

        Args:
            caller: sender of the upload.
            spent_s: processor time that the latest piece took.
        """
        self._about.note(caller)
        if self.most_share >= 1.0 or not (len(self._running) > 1 or self._about.are_several):
            return 0.0
        now = self._now()
        free_at = max(now, self._free_at.get(caller, now)) + spent_s / self.most_share
        self._free_at[caller] = free_at
        return free_at - now if free_at - now > UNNOTICED_S else 0.0
