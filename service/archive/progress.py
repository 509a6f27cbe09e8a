"""The progress of a run: X-rays done, rate, and remaining time."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TextIO

BAR_WIDTH = 30
WINDOW_S = 60.0
LINE_INTERVAL_S = 30.0


class Progress:
    """A bar on a terminal; elsewhere a line each half minute."""

    def __init__(self, total: int, finished_before: int, stream: TextIO = sys.stderr) -> None:
        """Begin.

        Args:
            total: X-rays of the archive.
            finished_before: how many of them an earlier run finished.
            stream: where the progress is written.
        """
        self._total, self._done, self._failed = total, finished_before, 0
        self._stream, self._is_terminal = stream, stream.isatty()
        self._lately = deque([(time.monotonic(), finished_before)])
        self._said_at = -float("inf")

    def add(self, done: int, failed: int) -> None:
        """Count a finished batch."""
        self._done += done + failed
        self._failed += failed
        now = time.monotonic()
        self._lately.append((now, self._done))
        while len(self._lately) > 2 and now - self._lately[1][0] > WINDOW_S:
            self._lately.popleft()
        if self._is_terminal or now - self._said_at >= LINE_INTERVAL_S or self._is_complete:
            self._said_at = now
            self._say()

    @property
    def _is_complete(self) -> bool:
        return self._done >= self._total

    def text(self) -> str:
        """Return the progress as text."""
        (began, before), (now, done) = self._lately[0], self._lately[-1]
        rate = (done - before) / (now - began) if now > began else 0.0
        left = "unknown" if not rate else _duration((self._total - self._done) / rate)
        return (
            f"{self._done} of {self._total}, {self._failed} failed, {rate:.1f} a second, "
            f"{left} left"
        )

    def _say(self) -> None:
        if not self._is_terminal:
            print(f"archive: {self.text()}", file=self._stream, flush=True)
            return
        filled = BAR_WIDTH * self._done // max(1, self._total)
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        end = "\n" if self._is_complete else ""
        print(f"\r\x1b[K[{bar}] {self.text()}", end=end, file=self._stream, flush=True)


def _duration(seconds: float) -> str:
    """Return hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
