"""Memory for unfinished uploads, and the choice of the upload to end when it is full.

A caller that sends most of a large upload and then almost nothing would hold memory for the whole
time of a request. Eight such callers would hold all of it. So a new upload replaces the one that
has waited longest for its next piece. If all uploads are fast, the newest is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from service.errors import QueueFull
from service.pipeline.upload_pace import UploadPace

PIECE_BYTES = 65_536
SLOW_S = 1.0
"""Seconds for `PIECE_BYTES` after which an upload may be ended: below half a megabit a second."""


class UploadBudget:
    """Counts the bytes of all unfinished uploads; for the event loop only.

    Attributes:
        limit_bytes: most bytes.
        held_bytes: bytes held now.
        pace: how quickly bytes may come.
    """

    def __init__(self, limit_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        """Start empty, with a clock that gives seconds."""
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self.pace = UploadPace(now)
        self._now = now
        self._shares: set[UploadShare] = set()

    def begin(self, give_way: Callable[[], None]) -> UploadShare:
        """Return the share of a new upload.

        Args:
            give_way: ends the upload, whose bytes then no longer count.
        """
        share = UploadShare(self, give_way, self._now())
        self._shares.add(share)
        return share

    def _make_room(self, newcomer: UploadShare) -> None:
        """End slow uploads until the others fit.

        Raises:
            QueueFull: no upload is slow.
        """
        while self.held_bytes > self.limit_bytes:
            slow_since = self._now() - SLOW_S
            others = [each for each in self._shares - {newcomer} if each.held_bytes]
            slowest = min(others, key=lambda each: each.piece_began_at, default=None)
            if slowest is None or slowest.piece_began_at > slow_since:
                raise QueueFull(
                    f"Unfinished uploads hold {self.held_bytes} bytes and the limit is "
                    f"{self.limit_bytes}; send the request again later.",
                    retry_after_s=1,
                )
            slowest.close()
            slowest.give_way()


class UploadShare:
    """The memory of one unfinished upload.

    Attributes:
        piece_began_at: when its latest piece of `PIECE_BYTES` began.
        give_way: ends the upload.
    """

    def __init__(self, budget: UploadBudget, give_way: Callable[[], None], now: float) -> None:
        """Hold nothing; `UploadBudget.begin` makes one."""
        self.held_bytes = 0
        self.piece_began_at = now
        self.give_way = give_way
        self._budget = budget
        self._piece_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Count received bytes.

        Raises:
            QueueFull: there is no room for them.
        """
        budget = self._budget
        if self not in budget._shares:
            return  # it was ended to make room
        self.held_bytes += size_bytes
        budget.held_bytes += size_bytes
        self._piece_bytes += size_bytes
        if self._piece_bytes >= PIECE_BYTES:
            self._piece_bytes, self.piece_began_at = 0, budget._now()
        budget._make_room(self)

    def close(self) -> None:
        """Uncount its bytes; may be called more than once."""
        if self in self._budget._shares:
            self._budget._shares.discard(self)
            self._budget.held_bytes -= self.held_bytes
