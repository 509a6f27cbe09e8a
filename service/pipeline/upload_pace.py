"""How much of the processors the uploads of one caller may take while other callers are about.

Taking an upload costs the front about 1 ms a megabyte, at a higher priority than image workers
have. Eight uploads of 62 MB at a time took 0.62 of two processors, and callers of small X-rays
waited for workers that came to nothing: 5.7 times as long as alone. So the uploads of one caller
together may take a twentieth of the processors for being parsed and kept, while another one is
about; receiving them takes as much again. A caller alone is never held back, and on many
processors nobody is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

from service.caller_turns import RecentCallers
from service.cpu_allowance import allowed_cpus

SHARE_OF_A_CPU = 0.05
"""Of each allowed processor: with two some 150 MB a second, more than their image workers read."""

ABOUT_S = 1.0
"""For how long a caller is about after its latest request: its next one may be on the way."""

UNNOTICED_S = 0.05
"""A caller may be ahead by so much: an X-ray of 8 MB is not held back at all."""


class UploadPace:
    """Knows whose requests run, and how far ahead each one's uploads are; of one event loop."""

    def __init__(
        self, now: Callable[[], float] = time.monotonic, cpus: Callable[[], int] = allowed_cpus
    ) -> None:
        """Start with nobody.

        Args:
            now: a clock that nobody can set, seconds.
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
            if not self._running[caller]:  # who has none is forgotten
                del self._running[caller]
                self._free_at.pop(caller, None)

    def pause_after(self, caller: str, spent_s: float) -> float:
        """Return how long an upload waits for its next piece.

        Args:
            caller: whose upload it is.
            spent_s: processor time that the latest piece took.
        """
        self._about.note(caller)
        if self.most_share >= 1.0 or not (len(self._running) > 1 or self._about.are_several):
            return 0.0
        now = self._now()
        free_at = max(now, self._free_at.get(caller, now)) + spent_s / self.most_share
        self._free_at[caller] = free_at
        return free_at - now if free_at - now > UNNOTICED_S else 0.0
