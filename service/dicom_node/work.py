"""The queue of one node: segments and sends each X-ray until every destination confirms."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable

from service.dicom_node.metrics import NodeMetrics
from service.dicom_node.segmenting import Segmenter, ServiceBusy, XrayRefused
from service.dicom_node.sending import (
    STORAGE_CLASSES,
    Connection,
    DestinationDown,
    ObjectRefused,
    Rest,
    connect,
)
from service.dicom_node.settings import Destination, NodeSettings
from service.dicom_node.spool import Answer, Job, Spool

logger = logging.getLogger("service.dicom_node.work")

Connect = Callable[[Destination, str, list[str]], Connection]
_SHORTEST_PAUSE_S = 0.1


class Work:
    """Threads that process the spool; jobs are on disk, and the queue only orders them in time."""

    def __init__(
        self,
        settings: NodeSettings,
        spool: Spool,
        segmenter: Segmenter,
        metrics: NodeMetrics,
        connect_to: Connect = connect,
    ) -> None:
        """Keep the parts; nothing runs before `start`."""
        self._settings, self._spool = settings, spool
        self._segmenter, self._metrics, self._connect = segmenter, metrics, connect_to
        self._rests = {one.name: Rest(settings.retry) for one in settings.destinations}
        self._due: list[tuple[float, int, Job]] = []
        self._known: set[str] = set()
        self._number = 0
        self._changed = threading.Condition()
        self._is_stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"work-{number}", daemon=True)
            for number in range(settings.segment.parallel)
        ]

    def start(self) -> None:
        """Start with the jobs that an earlier process left in the spool."""
        for job in self._spool.jobs():
            self.add(job)
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """Finish running steps; the rest stays on disk."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        give_up_at = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))

    def add(self, job: Job) -> None:
        """Queue a job for now, unless it already waits."""
        self._schedule(job, 0.0, is_new=True)

    def _schedule(self, job: Job, pause_s: float, *, is_new: bool = False) -> None:
        with self._changed:
            if is_new and job.key in self._known:
                return
            self._known.add(job.key)
            self._number += 1  # of two due together, the first queued
            heapq.heappush(self._due, (time.monotonic() + pause_s, self._number, job))
            self._changed.notify()

    def _next(self) -> Job | None:
        with self._changed:
            while not self._is_stopping:
                pause_s = self._due[0][0] - time.monotonic() if self._due else None
                if pause_s is not None and pause_s <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(pause_s)
        return None

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                pause_s = self._advance(job)
            except FileNotFoundError:  # a person removed it from the spool
                pause_s = None
            except Exception as error:  # the thread must continue, because other X-rays wait
                logger.exception("step_failed", extra={"fields": {"job": job.key}})
                self._metrics.failures.labels("node").inc()
                pause_s = self._after_failure(job, f"the node failed ({type(error).__name__})")
            if pause_s is None:
                self._forget(job)
            else:
                self._schedule(job, max(pause_s, _SHORTEST_PAUSE_S))

    def _forget(self, job: Job) -> None:
        with self._changed:
            self._known.discard(job.key)
        if job.folder.exists():  # sent again just when it was finished
            self.add(job)

    def _advance(self, job: Job) -> float | None:
        """Do all steps of a job that are possible now.

        Returns:
            Seconds until the next attempt; None when the job has left the spool.
        """
        answer = job.answer()
        if answer is None:
            try:
                answer = self._segment(job)
            except ServiceBusy as busy:
                self._metrics.failures.labels("service").inc()
                return self._after_failure(job, "no service answered", busy.retry_after_s)
            except XrayRefused as refused:
                self._bury(job, f"{refused}")
                return None
        pending, refusals = self._send_to_all(job, answer)
        if pending:
            return self._after_failure(job, "a destination did not answer", min(pending))
        if refusals:
            self._bury(job, " ".join(refusals))
            return None
        self._metrics.delivery_seconds.observe(max(0.0, time.time() - job.received_at))
        self._spool.finish(job, is_kept=self._settings.spool.keep_delivered_s > 0)
        logger.info("delivered", extra={"fields": {"job": job.key}})
        return None

    def _segment(self, job: Job) -> Answer:
        wanted = {kind for one in self._settings.destinations for kind in one.results}
        kinds = tuple(kind for kind in STORAGE_CLASSES if kind in wanted)
        found = self._segmenter.segment(job.xray, kinds)
        job.keep_answer(found.objects, found.warnings, is_refused=found.is_refused)
        self._metrics.segmented.inc()
        fields = {"job": job.key, "model": found.model, "warnings": found.warnings}
        logger.info("segmented", extra={"fields": fields})
        answer = job.answer()
        assert answer is not None
        return answer

    def _send_to_all(self, job: Job, answer: Answer) -> tuple[list[float], list[str]]:
        """Send missing objects to every destination; a refusal does not delay the others.

        Returns:
            Pauses until the next attempts, and a sentence for each refusal.
        """
        pending: list[float] = []
        refusals: list[str] = []
        for destination in self._settings.destinations:
            try:
                pause_s = self._send(job, answer, destination)
            except ObjectRefused as refused:
                refusals.append(f"{refused}")
            else:
                if pause_s is not None:
                    pending.append(pause_s)
        return pending, refusals

    def _send(self, job: Job, answer: Answer, destination: Destination) -> float | None:
        """Send a destination its missing objects.

        Returns:
            Seconds until the next attempt; None when it has everything.

        Raises:
            ObjectRefused: it will never accept an object.
        """
        kinds = [kind for kind in self._kinds_for(answer, destination) if kind in answer.files]
        missing = [kind for kind in kinds if not job.is_sent(destination.name, kind)]
        if not missing:
            return None
        rest = self._rests[destination.name]
        if (pause_s := rest.remaining_s(time.monotonic())) > 0:
            return pause_s
        try:
            self._send_over(job, answer, destination, missing)
        except DestinationDown as down:
            rest.begin(time.monotonic())
            self._metrics.failures.labels(destination.name).inc()
            fields = {"destination": destination.name, "reason": str(down)}
            logger.warning("destination_down", extra={"fields": fields})
            return rest.remaining_s(time.monotonic())
        except ObjectRefused as refused:
            raise ObjectRefused(f"{destination.name}: {refused}") from None
        rest.end()
        return None

    def _send_over(
        self, job: Job, answer: Answer, destination: Destination, kinds: list[str]
    ) -> None:
        connection = self._connect(destination, self._settings.receive.ae_title, kinds)
        refusals: list[str] = []
        try:
            for kind in kinds:
                try:
                    connection.send(answer.files[kind])
                except ObjectRefused as refused:
                    refusals.append(f"{kind}: {refused}")
                    continue
                job.note_sent(destination.name, kind)
                self._metrics.sent.labels(destination.name, kind).inc()
        finally:
            connection.close()
        if refusals:
            raise ObjectRefused(" ".join(refusals))

    def _kinds_for(self, answer: Answer, destination: Destination) -> tuple[str, ...]:
        """Return the kinds to send: no masks after a warning that forbids them."""
        if not answer.is_refused or destination.send_refused_masks:
            return destination.results
        return tuple(kind for kind in destination.results if kind == "sr")

    def _after_failure(self, job: Job, reason: str, pause_s: float | None = None) -> float | None:
        retry = self._settings.retry
        age_s = time.time() - job.received_at
        if age_s > retry.give_up_after_s:
            self._bury(job, f"{reason}, for {age_s:.0f} seconds.")
            return None
        return retry.first_pause_s if pause_s is None else pause_s

    def _bury(self, job: Job, reason: str) -> None:
        self._spool.bury(job, reason)
        self._metrics.died.inc()
        logger.error("dead_letter", extra={"fields": {"job": job.key, "reason": reason}})
