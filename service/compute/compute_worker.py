"""The one thread that runs the model: it loads it, proves it, then answers what waits.

One thread, because two model calls at a time on one device only slow each other down. It takes
whatever waits, up to `max_batch`, without waiting for more, so a lone caller never pays for
batching. Every caller gets an answer: when a batch fails, its items are tried one by one and the
error goes only to the item that caused it; when the thread itself ends, the rest is refused.
A caller that has left is dropped before compute.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from service.errors import Draining, InternalError, ServiceError

if TYPE_CHECKING:
    from model_store.prediction import ModelInfo, Prediction, PredictionRequest

logger = logging.getLogger("service.compute")

INTERNAL_SENTENCE = "The image could not be segmented because of an error inside the service."
FAILURES_BEFORE_RECHECK = 3
"""Calls that fail in a row before the worker doubts the device and repeats the self test."""


class SegmentationModel(Protocol):
    """What the worker needs of a predictor; `model_store.predictor.Predictor` has it."""

    @property
    def info(self) -> ModelInfo:
        """Name, version, digest, precision and device of the model."""

    def predict_batch(self, requests: Sequence[PredictionRequest]) -> list[Prediction]:
        """Segments several images in one call, in the order given."""


@dataclass(frozen=True)
class ComputeResult:
    """What one request got from the model.

    Attributes:
        prediction: masks and stage times.
        queue_s: seconds between being queued and being taken by the thread.
        batch_size: requests in the model call that answered this one.
    """

    prediction: Prediction
    queue_s: float
    batch_size: int


@dataclass(eq=False)
class Job:
    """One request on its way through the worker.

    Attributes:
        request: what the model gets.
        on_taken: called by the worker when it starts on this job.
        future: gets the result, or the error; cancel it to withdraw.
    """

    request: PredictionRequest
    on_taken: Callable[[], None]
    future: Future[ComputeResult] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.perf_counter)


class ComputeWorker:
    """A queue and the thread that empties it."""

    def __init__(
        self,
        *,
        load: Callable[[], SegmentationModel | None],
        max_batch: int,
        on_batch: Callable[[int, float], None],
        recheck: Callable[[], None],
    ) -> None:
        """Makes the worker; `start` runs it.

        Args:
            load: makes the model ready, in the worker's thread; None when there is none to run.
            max_batch: most requests in one model call.
            on_batch: told the size and the seconds of each model call that succeeded.
            recheck: called in the worker's thread after several failures in a row.
        """
        self._load = load
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._recheck = recheck
        self._jobs: deque[Job] = deque()
        self._condition = threading.Condition()
        self._is_closed = False
        self._failures_in_a_row = 0
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def start(self) -> None:
        """Starts the thread, which loads the model first."""
        self._thread.start()

    def submit(self, request: PredictionRequest, on_taken: Callable[[], None]) -> Job:
        """Puts a request at the end of the queue.

        Args:
            request: the decoded image with its boxes.
            on_taken: called, in the worker's thread, when the model starts on it.

        Returns:
            The job; wait for its `future`.

        Raises:
            Draining: the worker is closed.
        """
        job = Job(request, on_taken)
        with self._condition:
            if self._is_closed:
                raise Draining("The service is shutting down.", retry_after_s=5)
            self._jobs.append(job)
            self._condition.notify()
        return job

    def withdraw(self, job: Job) -> None:
        """Takes a job out of the queue when its caller no longer waits (a job done is left)."""
        job.future.cancel()
        with self._condition:
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self, timeout_s: float) -> bool:
        """Refuses what still waits, lets the running call end, and stops the thread.

        Returns:
            Whether the thread ended within `timeout_s` seconds.
        """
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            model = self._load()
            while model is not None:
                batch = self._take_batch()
                if not batch:
                    break
                self._answer(model, batch)
        finally:
            self._refuse_the_rest()

    def _take_batch(self) -> list[Job]:
        """Waits for jobs; an empty list says that the worker is closed."""
        with self._condition:
            while not self._is_closed:
                batch: list[Job] = []
                while self._jobs and len(batch) < self._max_batch:
                    job = self._jobs.popleft()
                    if job.future.set_running_or_notify_cancel():
                        batch.append(job)
                if batch:
                    return batch
                self._condition.wait()
        return []

    def _answer(self, model: SegmentationModel, batch: list[Job]) -> None:
        taken_at = time.perf_counter()
        for job in batch:
            job.on_taken()
        try:
            predictions = _predict(model, batch)
        except Exception as error:  # the border: every waiting caller gets an answer
            _log_failure(error, len(batch))
            if len(batch) > 1:
                for job in batch:
                    self._answer(model, [job])
            else:
                self._fail(batch[0], error)
            return
        self._failures_in_a_row = 0
        for job, prediction in zip(batch, predictions, strict=True):
            job.future.set_result(ComputeResult(prediction, taken_at - job.queued_at, len(batch)))
        self._on_batch(len(batch), time.perf_counter() - taken_at)

    def _fail(self, job: Job, error: Exception) -> None:
        is_refusal = isinstance(error, ServiceError)
        job.future.set_exception(error if is_refusal else InternalError(INTERNAL_SENTENCE))
        if is_refusal:
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_BEFORE_RECHECK:
            self._failures_in_a_row = 0
            self._recheck()

    def _refuse_the_rest(self) -> None:
        with self._condition:
            self._is_closed = True
            jobs = list(self._jobs)
            self._jobs.clear()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                refusal = Draining("The service is shutting down.", retry_after_s=5)
                job.future.set_exception(refusal)


def _predict(model: SegmentationModel, batch: list[Job]) -> list[Prediction]:
    """Calls the model and checks that each answer can only belong to its own request."""
    requests = [job.request for job in batch]
    predictions = model.predict_batch(requests)
    if len(predictions) != len(requests):
        raise ValueError("the model gave another number of answers than it got requests")
    for request, prediction in zip(requests, predictions, strict=True):
        if len(prediction.masks) != max(1, len(request.boxes)):
            raise ValueError("the model gave another number of masks than it got boxes")
        for mask, box in zip(prediction.masks, request.boxes, strict=False):
            if tuple(mask.box) != tuple(box):
                raise ValueError("the model answered another box than the one asked for")
        for mask in prediction.masks:
            if mask.mask.shape != request.image.shape or mask.mask.dtype != bool:
                raise ValueError("the model gave a mask that does not fit its image")
            if not math.isfinite(mask.score):
                raise ValueError("the model gave a score that is not a number")
    return predictions


def _log_failure(error: Exception, batch_size: int) -> None:
    """Logs where a model call failed, without the message, which could quote its input."""
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    logger.error(
        "model call failed",
        extra={
            "fields": {
                "error_type": type(error).__name__,
                "where": frames[-8:],
                "batch_size": batch_size,
            }
        },
    )
