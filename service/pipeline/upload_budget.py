"""Memory for unfinished uploads, and which upload ends when it is used up.

A caller that sends most of a large upload and then next to nothing would hold memory that others
need, for as long as a request may take. Eight of them would hold all of it. So the upload that has
waited longest for its next piece is ended for a new one. While all uploads come quickly, the newest
is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from service.errors import QueueFull

PIECE_BYTES = 65_536
SLOW_S = 1.0
"""An upload whose next `PIECE_BYTES` take longer makes room: below half a megabit a second."""


class UploadBudget:
    """Counts the bytes of all unfinished uploads; belongs to the event loop.

    Attributes:
        limit_bytes: most of them.
        held_bytes: how many there are.
    """

    def __init__(self, limit_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        """Start empty, with a clock that gives seconds."""
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._now = now
        self._shares: set[UploadShare] = set()

    def begin(self, give_way: Callable[[], None]) -> UploadShare:
        """Return the share of an upload that begins.

        Args:
            give_way: ends that upload; its bytes count no longer.
        """
        share = UploadShare(self, give_way, self._now())
        self._shares.add(share)
        return share

    def _make_room(self, newcomer: UploadShare) -> None:
        """End slow uploads until the others fit.

        Raises:
            QueueFull: none is slow.
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
    """What one unfinished upload holds.

    Attributes:
        piece_began_at: when its latest piece of `PIECE_BYTES` began to come.
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
        """Count bytes that came.

        Raises:
            QueueFull: there is no room for them.
        """
        budget = self._budget
        if self not in budget._shares:
            return  # it has made room and is about to end
        self.held_bytes += size_bytes
        budget.held_bytes += size_bytes
        self._piece_bytes += size_bytes
        if self._piece_bytes >= PIECE_BYTES:
            self._piece_bytes, self.piece_began_at = 0, budget._now()
        budget._make_room(self)

    def close(self) -> None:
        """Give its bytes back; may be called more than once."""
        if self in self._budget._shares:
            self._budget._shares.discard(self)
            self._budget.held_bytes -= self.held_bytes
