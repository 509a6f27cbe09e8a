"""The thread that calls the model: it loads and proves the model, and sends it waiting requests.

It is one thread because two model calls at a time on one device only slow each other down. While a
device computes, it already gets its next work, so that it never waits for this process. A GPU gets
a batch; a CPU, which computes one X-ray at a time, gets one. Callers take turns only while requests
wait here, so a device gets no more than it needs.

Every caller gets an answer. A request whose call failed gets its error, and its neighbours get
their masks. When the compute process is lost, or its answers are out of step, all accepted requests
are refused at once, with the advice to retry, and a new process starts. When the thread itself
ends, it refuses the rest. A request whose caller has left is dropped before compute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Protocol

from model_store.boxes import Box
from model_store.structures import LUNGS, Structure
from service.caller_turns import SERVICE
from service.compute.batch_queue import BatchQueue
from service.compute.compute_job import ComputeResult, Job
from service.compute.cpu_turns import CpuTurns
from service.compute.model_handle import LOST_SENTENCE, ModelCallError, SegmentationModel
from service.compute.network_data import NetworkInput, NetworkOutput
from service.compute.wake_up import WakeUp
from service.errors import ComputeLost, Draining, InternalError, OutOfMemory, ServiceError
from service.logging import describe_error

logger = logging.getLogger("service.compute")

INTERNAL_SENTENCE = "The image could not be segmented because of an error inside the service."
FAILURES_BEFORE_RECHECK = 3
"""Failed calls in a row after which the worker repeats the self test."""

LONGEST_RESTART_PAUSE_S = 30.0
LOOK_INTERVAL_S = 0.25
"""How often an idle worker checks that its compute process runs. The next caller then finds its
successor, and `/readyz` does not stay ready without a model."""


class ModelSource(Protocol):
    """Starts and proves a model; `service.compute.model_loading.ModelLoader` implements it."""

    def load(self) -> SegmentationModel | None:
        """Start the first model; None if there is none, ComputeLost if a retry may succeed."""

    def reload(self) -> SegmentationModel | None:
        """Replace the model by a new one; None if that failed this time."""

    def recheck(self) -> bool:
        """Repeat the self test; False when the model must not be used any more."""

    def lose(self) -> None:
        """Note that the model is gone."""


@dataclass(frozen=True)
class _Handed:
    """A batch sent to the model.

    Attributes:
        answers: the model's answers, in order, as they arrive.
        began_at: `time.perf_counter()` when it was sent.
    """

    jobs: list[Job]
    answers: Iterable[NetworkOutput | Exception]
    began_at: float


class ComputeWorker:
    """A queue and the thread that empties it."""

    def __init__(
        self,
        *,
        source: ModelSource,
        max_batch: int,
        on_batch: Callable[[int, float], None],
        batch_window_s: float = 0.0,
        recheck_interval_s: float = 60.0,
        turns: CpuTurns | None = None,
    ) -> None:
        """Make the worker; `start` runs it.

        Args:
            source: starts models, in the worker's thread.
            max_batch: most requests in a batch.
            on_batch: called with size and seconds of each batch.
            batch_window_s: how long after the first waiting request others may join it.
            recheck_interval_s: seconds between repetitions of the self test.
            turns: turns of the models on the CPUs; None for a single model.
        """
        self._turns = turns
        self._turn: object | None = None
        self._source = source
        self._on_batch = on_batch
        self._recheck_interval_s = recheck_interval_s
        self._queue: BatchQueue[Job] = BatchQueue(max_batch, batch_window_s)
        self._stop = threading.Event()
        self._failures_in_a_row = 0
        self._must_recheck = False
        self._is_lost = False
        self._max_batch = max_batch
        self._wake = WakeUp()
        self._handed: deque[_Handed] = deque()
        self._answered_at = 0.0
        self._rest_of_call = 0
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def start(self) -> None:
        """Start the thread, which loads the model first."""
        self._thread.start()

    def submit(
        self, given: NetworkInput, on_taken: Callable[[], None], caller: str = SERVICE
    ) -> Job:
        """Queue a request behind its caller's earlier ones.

        Args:
            given: the prepared image with its boxes.
            on_taken: called, in the worker's thread, when the model starts on it.
            caller: whose turns it uses.

        Returns:
            The job; wait for its `future`.

        Raises:
            Draining: the worker is closed.
        """
        job = Job(given, on_taken, caller)
        if not self._queue.put(job):
            raise Draining("The service is shutting down.", retry_after_s=5)
        self._wake.call()
        return job

    def withdraw(self, job: Job) -> None:
        """Remove a job from the queue when its caller no longer waits; ignore a finished job."""
        job.future.cancel()
        self._queue.remove(job)

    def close(self, timeout_s: float) -> bool:
        """Refuse waiting requests, let the running call end, and stop the thread.

        Returns:
            Whether the thread ended within `timeout_s` seconds.
        """
        self._stop.set()
        self._queue.close()
        self._wake.call()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            model = self._first_model()
            recheck_at = time.monotonic() + self._recheck_interval_s
            while model is not None:
                is_recheck_due = self._must_recheck or time.monotonic() >= recheck_at
                batch = self._next_batch(model, is_recheck_due, recheck_at)
                if batch is None:
                    break
                self._is_lost = self._is_lost or not (batch or self._handed or model.is_running)
                if batch:
                    self._take_turn(model)
                taken = [job for job in batch if job.future.set_running_or_notify_cancel()]
                taken = _fitting(model, taken)
                if taken:
                    self._hand_over(model, taken)
                if self._handed and not self._wants_more(model, is_recheck_due):
                    self._answer_oldest(model)
                is_recheck_due = self._must_recheck or time.monotonic() >= recheck_at
                if is_recheck_due and not self._handed:
                    self._must_recheck = False
                    self._take_turn(model)
                    self._is_lost = self._is_lost or not self._source.recheck()
                    recheck_at = time.monotonic() + self._recheck_interval_s
                if not self._handed:
                    self._end_turn()
                if self._is_lost:
                    model = self._recover()
            while model is not None and self._handed:
                self._answer_oldest(model)
        finally:
            self._end_turn()
            self._stop.set()
            self._queue.close()
            self._refuse_handed(lambda: ComputeLost(LOST_SENTENCE, retry_after_s=2))
            self._refuse_waiting(lambda: Draining("The service is shutting down.", retry_after_s=5))

    def _take_turn(self, model: SegmentationModel) -> None:
        """Wait for this model's turn on the CPUs; GPUs need no turns."""
        is_on_cpu = not model.info.device.startswith("cuda")
        if self._turns is not None and self._turn is None and is_on_cpu:
            self._turn = self._turns.take()

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if self._turns is not None and turn is not None:
            self._turns.give_back(turn)

    def _wants_more(self, model: SegmentationModel, is_recheck_due: bool) -> bool:
        """Wait until an answer arrives or the model can take more; True for the latter.

        It has up to two batches, one that it computes and the next. If several models share the
        CPUs it has no next batch, so that its turn ends.
        """
        in_hand = sum(len(handed.jobs) for handed in self._handed)
        if is_recheck_due or self._turn is not None or in_hand >= 2 * self._most_together(model):
            return False
        self._wake.watch()
        try:
            return self._queue.has_due or not model.answer_is_there(self._wake.fileno())
        except ComputeLost:
            return False  # as the answer will state
        finally:
            self._wake.ignore()

    def _next_batch(
        self, model: SegmentationModel, is_recheck_due: bool, recheck_at: float
    ) -> list[Job] | None:
        """Wait for a batch, unless the model has one; give it none before a recheck."""
        most = self._most_together(model)
        if not self._handed:
            return self._queue.take(min(recheck_at - time.monotonic(), LOOK_INTERVAL_S), most)
        return [] if is_recheck_due else self._queue.take_due(most)

    def _most_together(self, model: SegmentationModel) -> int:
        """Return the largest batch: one X-ray on a CPU, where more would gain nothing."""
        if model.info.device.startswith("cuda"):
            return self._max_batch
        return 1 if self._turns is None else min(2, self._max_batch)

    def _first_model(self) -> SegmentationModel | None:
        try:
            return self._source.load()
        except ComputeLost:
            return self._recover()

    def _recover(self) -> SegmentationModel | None:
        """Start new models until one is proven; the pauses between attempts double."""
        self._source.lose()
        self._refuse_handed(lambda: ComputeLost(LOST_SENTENCE, retry_after_s=2))
        pause_s = 0.5
        while not self._stop.is_set():
            self._refuse_waiting(lambda: ComputeLost(LOST_SENTENCE, retry_after_s=2))
            model = self._source.reload()
            if model is not None:
                self._is_lost = False
                self._failures_in_a_row = 0
                return model
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RESTART_PAUSE_S)
        return None

    def _hand_over(self, model: SegmentationModel, batch: list[Job]) -> None:
        for job in batch:
            job.on_taken()
        began_at = time.perf_counter()
        try:
            answers = model.answer_batch([job.given for job in batch])
        except Exception as error:  # the border: every waiting caller gets an answer
            self._lose(error, batch)
            return
        self._handed.append(_Handed(batch, answers, began_at))

    def _answer_oldest(self, model: SegmentationModel) -> None:
        handed = self._handed.popleft()
        batch, alone = handed.jobs, 0
        try:
            for job, found in zip(batch, _checked(handed.answers, batch), strict=True):
                if isinstance(found, Exception):
                    self._fail(job, found)
                    alone += 1
                    continue
                self._failures_in_a_row = 0
                waited_s = time.perf_counter() - job.queued_at
                queue_s = max(0.0, waited_s - sum(found.stage_seconds.values()))
                together = found.together or len(batch)
                job.future.set_result(ComputeResult(found, model.info, queue_s, together))
                if found.together is None:
                    alone += 1
                else:
                    self._note_shared_call(found.together, handed)
        except Exception as error:  # the border, as above
            self._lose(error, batch)
            return
        if alone:
            self._note_batch(alone, handed)

    def _note_shared_call(self, size: int, handed: _Handed) -> None:
        """Record a call once, at the first of its answers; a call may answer several batches."""
        if self._rest_of_call == 0:
            self._rest_of_call = size
            self._note_batch(size, handed)
        self._rest_of_call -= 1

    def _note_batch(self, size: int, handed: _Handed) -> None:
        began_at = max(handed.began_at, self._answered_at)  # it waited for the previous one
        self._answered_at = time.perf_counter()
        self._on_batch(size, self._answered_at - began_at)

    def _lose(self, error: Exception, batch: list[Job]) -> None:
        """Refuse all requests sent to the model: the next answer could be another request's."""
        if not isinstance(error, ComputeLost):
            _log_failure(error, len(batch))
        for job in batch:
            job.refuse(ComputeLost(LOST_SENTENCE, retry_after_s=2))
        self._refuse_handed(lambda: ComputeLost(LOST_SENTENCE, retry_after_s=2))
        self._rest_of_call = 0
        self._is_lost = True

    def _refuse_handed(self, refusal: Callable[[], ServiceError]) -> None:
        while self._handed:
            for job in self._handed.popleft().jobs:
                job.refuse(refusal())

    def _fail(self, job: Job, error: Exception) -> None:
        is_refusal = isinstance(error, ServiceError)
        job.refuse(error if is_refusal else InternalError(INTERNAL_SENTENCE))
        if isinstance(error, ComputeLost):
            self._is_lost = True
        elif isinstance(error, OutOfMemory):
            logger.error("out of memory", extra={"fields": {"error_type": "OutOfMemory"}})
            self._must_recheck = True
        elif not is_refusal:
            _log_failure(error, 1)
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_BEFORE_RECHECK:
                self._failures_in_a_row = 0
                self._must_recheck = True

    def _refuse_waiting(self, refusal: Callable[[], ServiceError]) -> None:
        for job in self._queue.empty():
            job.refuse(refusal())


def _fitting(model: SegmentationModel, batch: list[Job]) -> list[Job]:
    """Refuse requests that were prepared for the previous model and do not fit this one."""
    size, manifest = model.info.input_size, model.info.manifest
    structures = {LUNGS, *manifest.structures}
    for job in batch:
        is_known = job.given.convention in manifest.conventions
        if (
            job.given.side != size
            or not is_known
            or not structures.issuperset(job.given.structures)
        ):
            job.refuse(ComputeLost(LOST_SENTENCE, retry_after_s=2))
    return [job for job in batch if not job.future.done()]


def _checked(
    found: Iterable[NetworkOutput | Exception], batch: list[Job]
) -> Iterable[NetworkOutput | Exception]:
    """Check that each answer of the model belongs to its own request.

    Raises:
        ValueError: an answer belongs to another request, and later ones may, too.
    """
    if isinstance(found, Sized) and len(found) != len(batch):
        raise ValueError("the model gave another number of answers than it got requests")
    for job, one in zip(batch, found, strict=True):
        is_other = isinstance(one, NetworkOutput) and _answered(one) != job.given.requested_masks
        if is_other:
            raise ValueError("the model answered other boxes or structures than those asked for")
        yield one


def _answered(output: NetworkOutput) -> list[tuple[Box, Structure]]:
    return [(found.box, found.structure) for found in output.masks]


def _log_failure(error: Exception, batch_size: int) -> None:
    """Log where a model call failed, without its message, which could quote the input."""
    if isinstance(error, ModelCallError):
        failure = error.failure
        fields = {"error_type": failure.error_type, "where": list(failure.where)}
    else:
        fields = describe_error(error)
    logger.error("model call failed", extra={"fields": {**fields, "batch_size": batch_size}})
