"""Limits on the number of requests at a time; each holds a slot.

Three bounds limit memory and waiting time:

* `queue_limit` requests may wait for the model, while they are decoded or queued.
* A few times `max_batch` more may be past the queue, in the model or being rendered.
* All of them hold at most `queue_limit_bytes` of uploads, decoded images, inputs of the network and
  unsent answers. A single larger request is accepted if there is no other.

Overload is refused at once with 429, if possible before the upload is read, instead of letting
every caller wait longer. While several callers send requests, none holds the last quarter of the
slots, so a caller of few requests always finds one. Bytes of unfinished uploads have a separate
bound (`service.pipeline.upload_budget`), so slow senders hold no slots.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from service.caller_turns import SERVICE, RecentCallers, most_of_one
from service.errors import QueueFull
from service.pipeline.upload_budget import UploadBudget

PAST_THE_MODEL_BATCHES = 4
"""Most batches past the queue, being computed or rendered."""

LONGEST_RETRY_S = 30
ABOUT_S = 2.0 * LONGEST_RETRY_S
"""How long a caller counts as active; a refused caller retries within this time."""


class AdmissionControl:
    """Counts the accepted requests and their bytes. Thread-safe.

    Attributes:
        uploads: memory for unfinished uploads; for the event loop only.
    """

    def __init__(
        self,
        *,
        queue_limit: int,
        max_batch: int,
        upload_budget_bytes: int,
        queue_limit_bytes: int = 2**62,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the bounds.

        Args:
            queue_limit: most requests that wait for the model.
            max_batch: most requests in one model call.
            upload_budget_bytes: most bytes of unfinished uploads held in memory.
            queue_limit_bytes: most bytes that accepted requests hold.
            clock: monotonic clock, in seconds.
        """
        self._queue_limit_bytes = queue_limit_bytes
        self._inside_bytes = 0
        self.queue_limit = queue_limit
        self.most_inside = queue_limit + PAST_THE_MODEL_BATCHES * max_batch
        self.uploads = UploadBudget(upload_budget_bytes)
        self._lock = threading.Lock()
        self._waiting = 0
        self._inside = 0
        self._waiting_of: Counter[str] = Counter()
        self._inside_of: Counter[str] = Counter()
        self._about = RecentCallers(ABOUT_S, clock)
        self._seconds_per_request = 0.2

    @property
    def waiting(self) -> int:
        """Accepted requests that have not reached the model."""
        return self._waiting

    @property
    def inside(self) -> int:
        """Accepted requests, at any stage."""
        return self._inside

    @property
    def inside_bytes(self) -> int:
        """Bytes of uploads and images of accepted requests."""
        return self._inside_bytes

    def refuse_if_full(self, caller: str = SERVICE) -> None:
        """Refuse a request before its upload if the service is full; take no slot.

        Args:
            caller: key or address by which slots are shared.

        Raises:
            QueueFull: too many requests wait, in total or of this caller.
        """
        with self._lock:
            self._refuse_if_full_locked(caller)

    def enter(self, caller: str = SERVICE) -> Slot:
        """Take a slot.

        Args:
            caller: caller of the request.

        Returns:
            The slot, a context manager that releases itself.

        Raises:
            QueueFull: too many requests wait, in total or of this caller.
        """
        with self._lock:
            self._refuse_if_full_locked(caller)
            self._count_waiting_locked(caller, 1)
            self._count_inside_locked(caller, 1)
        return Slot(self, caller)

    def keep_answer(self, size_bytes: int) -> Callable[[], None]:
        """Count the bytes of an answer that waits for its caller; never refuse it.

        Returns:
            The function that uncounts the bytes; it may be called more than once.
        """
        left = [size_bytes]

        def give_back() -> None:
            with self._lock:
                self._inside_bytes -= left[0]
                left[0] = 0

        with self._lock:
            self._inside_bytes += size_bytes
        return give_back

    def note_pace(self, seconds_per_request: float) -> None:
        """Update the moving average of the model's time per request, for `Retry-After`."""
        with self._lock:
            self._seconds_per_request += 0.2 * (seconds_per_request - self._seconds_per_request)

    def _count_waiting_locked(self, caller: str, change: int) -> None:
        self._waiting += change
        _count(self._waiting_of, caller, change)

    def _count_inside_locked(self, caller: str, change: int) -> None:
        self._inside += change
        _count(self._inside_of, caller, change)

    def _refuse_if_full_locked(self, caller: str) -> None:
        self._about.note(caller)
        if self._waiting >= self.queue_limit or self._inside >= self.most_inside:
            raise self._full_locked()
        if caller == SERVICE or not self._about.are_several:
            return
        most = most_of_one(self.queue_limit)
        has_most = self._waiting_of[caller] >= most
        if has_most or self._inside_of[caller] >= most_of_one(self.most_inside):
            raise QueueFull(
                f"{self._waiting_of[caller]} of your requests wait for the model; while others "
                f"send requests, too, the limit is {most}. Send the request again later.",
                retry_after_s=self._retry_after_s_locked(),
            )

    def _full_locked(self) -> QueueFull:
        return QueueFull(
            f"{self._waiting} requests wait for the model and the limit is {self.queue_limit}; "
            "send the request again later.",
            retry_after_s=self._retry_after_s_locked(),
        )

    def _retry_after_s_locked(self) -> int:
        """Return the seconds until all waiting requests are served, at the latest rate."""
        wait_s = int(self._waiting * self._seconds_per_request) + 1
        return min(wait_s, LONGEST_RETRY_S)


def _count(places: Counter[str], caller: str, change: int) -> None:
    places[caller] += change
    if not places[caller]:
        del places[caller]  # callers without requests are forgotten


class Slot:
    """The slot of one request; its methods may be called more than once."""

    def __init__(self, admission: AdmissionControl, caller: str) -> None:
        """Hold a slot that admission has already counted for its caller."""
        self._admission = admission
        self._caller = caller
        self._waits = True
        self._is_inside = True
        self._bytes = 0

    def hold_bytes(self, size_bytes: int) -> None:
        """Count bytes that this request keeps in memory until it leaves.

        Raises:
            QueueFull: all accepted requests together hold more than `queue_limit_bytes`.
        """
        admission = self._admission
        with admission._lock:
            others = admission._inside_bytes - self._bytes
            self._bytes += size_bytes
            admission._inside_bytes += size_bytes
            if others and admission._inside_bytes > admission._queue_limit_bytes:
                raise QueueFull(
                    f"The accepted requests hold {admission._inside_bytes} bytes and the limit is "
                    f"{admission._queue_limit_bytes}; send the request again later.",
                    retry_after_s=admission._retry_after_s_locked(),
                )

    def reach_model(self) -> None:
        """Release the waiting slot: the model works on this request now."""
        with self._admission._lock:
            if self._waits:
                self._waits = False
                self._admission._count_waiting_locked(self._caller, -1)

    def leave(self) -> None:
        """Release everything: the request is answered, refused, or its caller has left."""
        with self._admission._lock:
            self._admission._inside_bytes -= self._bytes
            self._bytes = 0
            if self._waits:
                self._waits = False
                self._admission._count_waiting_locked(self._caller, -1)
            if self._is_inside:
                self._is_inside = False
                self._admission._count_inside_locked(self._caller, -1)

    def __enter__(self) -> Slot:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the slot however the block ended."""
        self.leave()
