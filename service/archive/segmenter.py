"""Segments files as the service does, without HTTP: what runs on each host of an archive run."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import posixpath
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import unquote

from service import errors
from service.archive.errors import ArchiveError
from service.archive.inputs import ArchiveInput
from service.archive.locations import Location, location_of
from service.archive.rows import done_row, failed_row, refused_row
from service.compute.archive_model import start_archive_child
from service.compute.model_loading import PredictorFactory
from service.compute.readiness import State
from service.imaging.box_text import parse_box
from service.imaging.convention_text import parse_convention
from service.imaging.segment_request import AnswerKind, LungChoice, SegmentRequest
from service.pipeline.image_workers import PoolFactory, make_worker_pool
from service.pipeline.segmentation import SegmentationService
from service.request_record import RequestRecord
from service.settings import Settings
from service.workers.sharing import copy_of, share

logger = logging.getLogger("service.archive")

ATTEMPTS = 4
"""Attempts for an X-ray. A process killed for memory loses the X-rays of its neighbours, too; each
is tried again."""
START_TIMEOUT_S = 300.0
PAUSE_S = 1.0
"""Pause after the first attempt; it grows with each further one."""
_LOOK_S = 0.05
_RETRYABLE = (
    errors.QueueFull,
    errors.ComputeLost,
    errors.WorkerLost,
    errors.OutOfMemory,
    errors.NotReady,
)
Result = TypeVar("Result")


@dataclass(frozen=True)
class ResultOptions:
    """The results to make of each X-ray of a run.

    Attributes:
        threshold: least probability of a lung pixel.
        lungs: both lungs in one mask, or each in its own.
        masks: whether masks are written as PNG.
        overlays: whether overlays are written.
        segmentations: whether DICOM segmentations are written, for X-rays in DICOM.
    """

    threshold: float = 0.5
    lungs: LungChoice = LungChoice.BOTH
    masks: bool = False
    overlays: bool = False
    segmentations: bool = False


class Segmenter:
    """The service's pipeline in its own thread; safe to call from several threads."""

    def __init__(
        self,
        settings: Settings,
        options: ResultOptions,
        output: Location,
        predictor_factory: PredictorFactory = start_archive_child,
        pool_factory: PoolFactory = make_worker_pool,
    ) -> None:
        """Start the processes and wait until they gave the golden mask.

        Args:
            settings: limits and model of the service.
            options: what is made of each X-ray.
            output: where masks, overlays and segmentations go.
            predictor_factory: loads the model; replaced in tests.
            pool_factory: makes the image workers; replaced in tests.

        Raises:
            ArchiveError: the model or the image workers cannot be used on this host.
        """
        self._settings, self._options, self._output = settings, options, output
        self._refused: list[Exception] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="archive", daemon=True)
        self._thread.start()
        self._service = SegmentationService(
            settings, predictor_factory, pool_factory, self._refused.append
        )
        self._at_once = asyncio.Semaphore(_most_at_once(settings))
        self._files = ThreadPoolExecutor(_most_at_once(settings), "archive-files")
        try:
            self._wait_for(self._start())
        except BaseException:
            self.close()
            raise

    def rows(self, inputs: Sequence[ArchiveInput]) -> list[dict[str, Any]]:
        """Return a row for each X-ray, in order.

        Raises:
            ArchiveError: the model became unusable; these X-rays have no result.
            OSError: a result cannot be written.
        """
        return self._wait_for(self._rows(inputs))

    def close(self) -> None:
        """End the processes; may be called more than once."""
        if self._loop.is_closed():
            return
        self._wait_for(self._service.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._files.shutdown(wait=False)

    def _wait_for(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        await self._service.start()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._until_ready()
        except TimeoutError:
            raise ArchiveError(f"No proven model within {START_TIMEOUT_S:g} seconds.") from None

    async def _until_ready(self) -> None:
        while (state := self._service.readiness.state) is not State.READY:
            if state in (State.BROKEN, State.DRAINING):
                raise ArchiveError(self._why_not())
            await asyncio.sleep(_LOOK_S)

    def _why_not(self) -> str:
        if self._refused:
            return " ".join(str(self._refused[0]).split())
        try:
            self._service.readiness.require_ready()
        except errors.ServiceError as error:
            return error.detail
        return "The model cannot be used."

    async def _rows(self, inputs: Sequence[ArchiveInput]) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(self._row(one) for one in inputs)))

    async def _row(self, one: ArchiveInput) -> dict[str, Any]:
        async with self._at_once:
            try:
                data = await self._read(one)
            except (OSError, ArchiveError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                return failed_row(one, "unreadable_file", " ".join(reason.split()))
            try:
                return await self._segmented(one, data)
            except errors.ServiceError as error:
                return refused_row(one, error)

    async def _read(self, one: ArchiveInput) -> bytes:
        most = self._settings.max_upload_bytes + 1  # one more byte shows that it is too large
        return await self._in_thread(lambda: location_of(one.address).read(most))

    async def _segmented(self, one: ArchiveInput, data: bytes) -> dict[str, Any]:
        if len(data) > self._settings.max_upload_bytes:
            limit = self._settings.max_upload_bytes
            raise errors.PayloadTooLarge(f"The file has more than {limit} bytes, the limit.")
        request = self._request(one)
        answer, record = await self._answer(data, request)
        found = json.loads(answer)
        facts: dict[str, Any] = {"file_bytes": len(data), "format": record.image_format}
        masks = [base64.b64decode(mask["png"]) for mask in found["masks"]]
        named = [{"png_sha256": hashlib.sha256(png).hexdigest()} for png in masks]
        if self._options.masks:
            for number, png in enumerate(masks):
                suffix = f"_mask{number}.png" if len(masks) > 1 else "_mask.png"
                named[number]["png_file"] = await self._write("masks", one, suffix, png)
        if self._options.overlays:
            overlay = base64.b64decode(found["overlay_png"])
            facts["overlay_file"] = await self._write("overlays", one, "_overlay.png", overlay)
        if self._options.segmentations and record.image_format == "dicom":
            again, _ = await self._answer(data, replace(request, answer_kind=AnswerKind.DICOM))
            facts["seg_file"] = await self._write("segmentations", one, "_seg.dcm", again)
        return done_row(one, found, named, facts)

    def _request(self, one: ArchiveInput) -> SegmentRequest:
        boxes = tuple(parse_box(text) for text in one.boxes.split(";")) if one.boxes else ()
        if len(boxes) > self._settings.max_boxes:
            raise errors.InvalidBox(f"More than {self._settings.max_boxes} boxes.")
        return SegmentRequest(
            boxes=boxes,
            convention=parse_convention(one.convention),
            threshold=self._options.threshold,
            wants_overlay=self._options.overlays,
            answer_kind=AnswerKind.JSON,
            lungs=self._options.lungs,
            wants_measurements=True,
        )

    async def _answer(self, data: bytes, request: SegmentRequest) -> tuple[bytes, RequestRecord]:
        """Call the pipeline, again if another attempt may succeed; return the answer's body."""
        for attempt in range(1, ATTEMPTS + 1):
            await self._until_ready()
            record = RequestRecord(request_id="archive", trace_id=None)
            try:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    with await share(data) as image:
                        answer = await self._service.segment(image, request, len(data), record)
                    with answer:
                        return await copy_of(answer.body), record
            except TimeoutError:
                limit_s = self._settings.request_timeout_s
                raise errors.DeadlineExceeded(f"No mask within {limit_s:g} seconds.") from None
            except _RETRYABLE as error:
                if attempt == ATTEMPTS:
                    raise
                logger.warning("tried again", extra={"fields": {"code": error.code}})
                await asyncio.sleep(attempt * PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    async def _write(self, kind: str, one: ArchiveInput, suffix: str, data: bytes) -> str:
        stem = posixpath.splitext(posixpath.basename(unquote(one.address)))[0][:100]
        name = f"{kind}/{one.input_id[:2]}/{stem}-{one.input_id}{suffix}"
        await self._in_thread(lambda: self._output.below(name).write(data))
        return name

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await self._loop.run_in_executor(self._files, work)


def _most_at_once(settings: Settings) -> int:
    """Return how many X-rays keep model and workers busy; more would only take memory."""
    return 2 * settings.image_workers + 2 * settings.max_batch
