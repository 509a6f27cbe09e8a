"""How many requests may be inside: each takes a place and gives it back.

Three bounds hold memory and waiting time: `queue_limit` requests wait for the model (being decoded
or queued), a few times `max_batch` more may be past the model, being rendered, and all of them
together hold at most `queue_limit_bytes` of uploads, decoded images, inputs of the network and
answers that wait to be taken (a single larger one is let in when nothing else is there). Overload
is refused at once with 429, before an upload is read when that is known then, instead of letting
every caller wait longer. Bytes of unfinished uploads have a bound of their own
(`service.pipeline.upload_budget`), so that slow senders hold no place that a fast one could use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from service.errors import QueueFull
from service.pipeline.upload_budget import UploadBudget

PAST_THE_MODEL_BATCHES = 4
"""Batches that may be past the model, being computed or rendered."""

LONGEST_RETRY_S = 30


class Admission:
    """Counts the requests inside and what they hold; safe from any thread.

    Attributes:
        uploads: memory for unfinished uploads; belongs to the event loop.
    """

    def __init__(
        self,
        *,
        queue_limit: int,
        max_batch: int,
        upload_budget_bytes: int,
        queue_limit_bytes: int = 2**62,
    ) -> None:
        """Set the bounds.

        Args:
            queue_limit: most requests that wait for the model.
            max_batch: most requests in one model call.
            upload_budget_bytes: most bytes of unfinished uploads held in memory.
            queue_limit_bytes: most bytes that the requests inside hold.
        """
        self._queue_limit_bytes = queue_limit_bytes
        self._inside_bytes = 0
        self.queue_limit = queue_limit
        self.most_inside = queue_limit + PAST_THE_MODEL_BATCHES * max_batch
        self.uploads = UploadBudget(upload_budget_bytes)
        self._lock = threading.Lock()
        self._waiting = 0
        self._inside = 0
        self._seconds_per_request = 0.2

    @property
    def waiting(self) -> int:
        """Requests that hold a place and have not reached the model."""
        return self._waiting

    @property
    def inside(self) -> int:
        """Requests that hold a place, wherever they are."""
        return self._inside

    @property
    def inside_bytes(self) -> int:
        """Bytes of uploads and images that the requests inside hold."""
        return self._inside_bytes

    def refuse_if_full(self) -> None:
        """Refuse a request before its upload, without taking a place.

        Raises:
            QueueFull: as many requests wait as are allowed.
        """
        with self._lock:
            self._refuse_if_full_locked()

    def enter(self) -> Slot:
        """Take a place.

        Returns:
            The place, a context manager that gives itself back.

        Raises:
            QueueFull: as many requests wait as are allowed.
        """
        with self._lock:
            self._refuse_if_full_locked()
            self._waiting += 1
            self._inside += 1
        return Slot(self)

    def keep_answer(self, size_bytes: int) -> Callable[[], None]:
        """Count an answer that waits to be taken by its caller; it is never refused.

        Returns:
            What gives the bytes back; may be called more than once.
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
        """Learn how long one request keeps the model, for `Retry-After` (moving average)."""
        with self._lock:
            self._seconds_per_request += 0.2 * (seconds_per_request - self._seconds_per_request)

    def _refuse_if_full_locked(self) -> None:
        if self._waiting >= self.queue_limit or self._inside >= self.most_inside:
            raise self._full_locked()

    def _full_locked(self) -> QueueFull:
        return QueueFull(
            f"{self._waiting} requests wait for the model and the limit is {self.queue_limit}; "
            "send the request again later.",
            retry_after_s=self._retry_after_s_locked(),
        )

    def _retry_after_s_locked(self) -> int:
        """Return seconds until those who wait now will have been served, at the latest pace."""
        wait_s = int(self._waiting * self._seconds_per_request) + 1
        return min(wait_s, LONGEST_RETRY_S)


class Slot:
    """One request's place in the service; both ways out may be called more than once."""

    def __init__(self, admission: Admission) -> None:
        """Hold a place that admission has already counted."""
        self._admission = admission
        self._waits = True
        self._is_inside = True
        self._bytes = 0

    def hold_bytes(self, size_bytes: int) -> None:
        """Count bytes that this request keeps in memory until it leaves.

        Raises:
            QueueFull: with the others inside it holds more than `queue_limit_bytes`.
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
        """Give the waiting place to the next caller: the model works on this request now."""
        with self._admission._lock:
            if self._waits:
                self._waits = False
                self._admission._waiting -= 1

    def leave(self) -> None:
        """Give everything back: the request is answered, refused or its caller has left."""
        with self._admission._lock:
            self._admission._inside_bytes -= self._bytes
            self._bytes = 0
            if self._waits:
                self._waits = False
                self._admission._waiting -= 1
            if self._is_inside:
                self._is_inside = False
                self._admission._inside -= 1

    def __enter__(self) -> Slot:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the place back however the block ended."""
        self.leave()
