"""One segmentation request from its upload to its answer, and the parts that all of them share.

decode -> preprocess -> queue -> (encode_image -> decode_mask) -> postprocess -> render: the verbs
in brackets run in the compute process, the others in a small thread pool beside the event loop,
while the network works on another X-ray. Whatever ends a request early (a refusal, its deadline, a
caller who left), its place and its upload bytes are given back on the way out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from model_store.prediction import ModelInfo
from model_store.preparation import PreparedRequest
from service.compute.compute_child import LOST_SENTENCE
from service.compute.compute_worker import ComputeResult, ComputeWorker
from service.compute.model_loading import ModelLoader, PredictorFactory, SelfTest
from service.compute.readiness import Readiness, State
from service.cpu_allowance import image_threads, yield_to_the_model
from service.errors import ComputeLost, DeadlineExceeded, InvalidField, NotAcceptable
from service.http.form import SegmentForm, most_fields, read_form
from service.http.keys import ApiKeys
from service.http.upload import CallerLeft, RequestBody, Upload, UploadLimits, read_upload
from service.imaging.answer_kind import AnswerKind, wanted_answer
from service.imaging.segment_answer import SegmentFindings
from service.imaging.side_thread import SideThread, in_turn
from service.imaging.warm_up import decode_and_draw_once
from service.metrics import Metrics
from service.pipeline.admission import Admission
from service.pipeline.request_steps import answer_of, open_xray
from service.request_record import RequestRecord, record_of
from service.settings import Settings

Result = TypeVar("Result")

UPLOADS_IN_MEMORY = 8
"""Unfinished uploads of the largest size that may be held in memory together."""

THREAD_END_TIMEOUT_S = 5.0
"""How long `stop` waits for the running model call; the requests have been drained before."""


class SegmentationService:
    """Everything that the requests of one process share.

    Attributes:
        settings: the limits.
        readiness: whether masks may be given.
        admission: counts who is inside.
        metrics: the process's metrics.
        loader: holds the model once it is proven.
        worker: runs the model.
        requests_running: segmentation requests being worked on.
    """

    def __init__(
        self,
        settings: Settings,
        predictor_factory: PredictorFactory,
        self_test: SelfTest,
        on_refused: Callable[[Exception], None],
    ) -> None:
        """Builds the parts; nothing runs before `start`."""
        self.settings = settings
        self.readiness = Readiness()
        self.admission = Admission(
            queue_limit=settings.queue_limit,
            max_batch=settings.max_batch,
            upload_budget_bytes=UPLOADS_IN_MEMORY * settings.max_upload_bytes,
            queue_limit_bytes=settings.queue_limit_bytes,
        )
        self.metrics = Metrics(
            queue_limit=settings.queue_limit,
            queue_depth=lambda: self.admission.waiting,
            queue_bytes=lambda: self.admission.inside_bytes,
        )
        self.metrics.follow_readiness(lambda: self.readiness.state is State.READY)
        self.loader = ModelLoader(
            settings, self.readiness, self.metrics, predictor_factory, self_test, on_refused
        )
        self.worker = ComputeWorker(
            source=self.loader,
            max_batch=settings.max_batch,
            on_batch=self._note_batch,
            batch_window_s=settings.batch_window_s,
            recheck_interval_s=settings.recheck_interval_s,
        )
        self._keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
        self.requests_running = 0
        self._image_threads = settings.image_threads or image_threads()
        self._pool = ThreadPoolExecutor(
            self._image_threads, thread_name_prefix="image", initializer=yield_to_the_model
        )
        self._side = SideThread()

    def start(self) -> None:
        """Starts loading the model in the compute thread, and warms the pool up meanwhile."""
        self.worker.start()
        for _ in range(self._image_threads):
            self._pool.submit(decode_and_draw_once, self._side.both)

    def stop(self) -> None:
        """Refuses new work, ends the compute thread and the pool."""
        self.readiness.mark_draining()
        self.worker.close(THREAD_END_TIMEOUT_S)
        self.loader.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._side.close()

    def require_key(self, request: Request) -> None:
        """Lets a request pass that needs no API key or has a valid one.

        Raises:
            MissingKey: there is none.
            WrongKey: it is not valid.
        """
        if self._keys is not None:
            self._keys.require(request.headers)

    @contextmanager
    def count_running(self) -> Generator[None, None, None]:
        """Counts a request as running, for the metric and for the drain, however it ends."""
        self.requests_running += 1
        self.metrics.inflight.inc()
        try:
            yield
        finally:
            self.requests_running -= 1
            self.metrics.inflight.dec()

    async def answer(self, request: Request, body: RequestBody) -> Response:
        """Answers one `POST /segment`.

        Args:
            request: the request, its body unread.
            body: the incoming side of the same request.

        Returns:
            The answer in the form that `Accept` asks for.

        Raises:
            ServiceError: the request is refused.
            CallerLeft: there is nobody to answer.
        """
        self.require_key(request)
        self.readiness.require_ready()
        if request.url.query:
            raise InvalidField(
                "The address has a query (after '?'), which is not read; send form fields."
            )
        kind = wanted_answer(request.headers.get("accept"))
        self.admission.refuse_if_full()
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                upload = await self._receive(request, body)
                work = self._segment(upload, kind, record_of(request.scope))
                return await _unless_caller_leaves(body, work)
        except TimeoutError:
            limit_s = self.settings.request_timeout_s
            raise DeadlineExceeded(
                f"The answer was not ready within {limit_s:g} seconds; send the request again "
                "when the service is less busy."
            ) from None

    async def _receive(self, request: Request, body: RequestBody) -> Upload:
        limits = UploadLimits(self.settings.max_upload_bytes, most_fields(self.settings.max_boxes))
        held_bytes = 0

        def hold(size_bytes: int) -> None:
            nonlocal held_bytes
            held_bytes += size_bytes
            self.admission.hold_upload_bytes(size_bytes)

        try:
            upload = await read_upload(body, request.headers, limits, hold)
        finally:
            self.admission.hold_upload_bytes(-held_bytes)
        record_of(request.scope).upload_bytes = upload.size_bytes
        return upload

    def _model_for(self, form: SegmentForm) -> ModelInfo:
        """Returns the model that will answer; imported ones know one convention and draw no other.

        Raises:
            ComputeLost: it was lost while the upload came.
            InvalidField: it was never trained to draw the convention asked for.
        """
        model = self.loader.model  # read once: the compute thread may take it away
        if model is None:
            raise ComputeLost(LOST_SENTENCE, retry_after_s=2)
        info = model.info
        if form.convention not in info.manifest.conventions:
            known = ", ".join(info.manifest.conventions)
            raise InvalidField(f"The field convention must be {known}; this model draws no other.")
        return info

    async def _segment(self, upload: Upload, kind: AnswerKind, record: RequestRecord) -> Response:
        form = read_form(upload.fields, max_boxes=self.settings.max_boxes)
        input_size = self._model_for(form).input_size
        record.box_count = len(form.boxes)
        if kind is AnswerKind.PNG and len(form.boxes) > 1:
            raise NotAcceptable(
                f"An image/png answer is one mask, but {len(form.boxes)} boxes came; send one box "
                "a request, or accept application/json."
            )
        with self.admission.enter() as place:
            place.hold_bytes(upload.size_bytes)
            record.decode_began_at = time.perf_counter()
            opened = await self._in_pool(
                lambda: open_xray(form, kind, input_size, self.settings.max_pixels, record)
            )
            place.hold_bytes(opened.size_bytes)
            result = await self._compute(opened.prepared, place.reach_model)
            record.stage_seconds |= {"queue": result.queue_s, **result.answer.stage_seconds}
            record.batch_size = result.batch_size
            both = self._side.both if self.admission.inside == 1 else in_turn
            asked_at = time.perf_counter()
            findings, response = await self._in_pool(
                lambda: answer_of(opened, result, kind, record, asked_at, both)
            )
        self._note_answer(record, findings)
        return response

    async def _compute(
        self, prepared: PreparedRequest, on_taken: Callable[[], None]
    ) -> ComputeResult:
        job = self.worker.submit(prepared, on_taken)
        try:
            return await asyncio.wrap_future(job.future)
        finally:
            self.worker.withdraw(job)

    async def _in_pool(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _note_batch(self, size: int, seconds: float) -> None:
        self.metrics.batch_size.observe(size)
        self.admission.note_pace(seconds / size)

    def _note_answer(self, record: RequestRecord, findings: SegmentFindings) -> None:
        for stage, seconds in record.stage_seconds.items():
            self.metrics.stage_duration.labels(stage).observe(seconds)
        self.metrics.input_pixels.observe(findings.decoded.pixels.size)
        for found in findings.masks:
            area_ratio = np.count_nonzero(found.mask) / found.mask.size
            self.metrics.mask_area_ratio.observe(area_ratio)
        for code in record.warning_codes:
            self.metrics.warnings.labels(code).inc()


async def _unless_caller_leaves(body: RequestBody, work: Coroutine[Any, Any, Response]) -> Response:
    """Waits for the work; cancels it and raises CallerLeft when the connection closes first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(body.wait_until_caller_leaves())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise CallerLeft
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
