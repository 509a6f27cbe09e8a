"""A shadow model: its masks are compared with the served model's and never sent to a caller.

An X-ray is chosen after its answer, so that no caller waits. It then waits in a short queue until
no request runs, and is dropped if that takes too long or the queue is full. The model has its own
process, which computes while a processor is idle (`service.compute.shadow_model`). Its faults
change neither readiness nor other metrics of the service.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from model_store.boxes import Box
from model_store.model_info import ModelInfo
from model_store.self_test_result import SelfTestResult
from model_store.structures import LUNGS, Structure
from service.compute.fleet import ComputeFleet
from service.compute.model_loading import PredictorFactory
from service.compute.network_data import BoxLogits, NetworkInput, NetworkOutput
from service.errors import ServiceError
from service.imaging.comparison_data import CompareOrder, LogitsPair, LogitsSize
from service.imaging.segment_request import SegmentRequest
from service.logging import describe_error
from service.pipeline.image_workers import IDLE_URGENCY, ImageWorkers
from service.settings import ALL_DEVICES, Settings
from service.shadow_metrics import ShadowMetrics
from service.workers.shared_memory import Blob

logger = logging.getLogger("service.shadow")

QUEUE_LIMIT = 4
"""Most waiting X-rays; each holds the network's input and output: 0.2 MB with the default model."""
MOST_UPLOAD_BYTES = 32 * 1024 * 1024
"""Most uploads kept for a shadow model with another input size."""
MOST_MASKS = 8
"""Most masks of one X-ray that are compared."""
PATIENCE_S = 5.0
"""How long an X-ray may wait until no request runs."""
LONGEST_S = 120.0
STALL_TIMEOUT_S = 600.0
"""Timeout of its process, long because a process without processor time is not hung."""
LOOK_INTERVAL_S = 0.05
DIFFERENT_DICE = 0.9
"""Dice below which a line of the log names the request."""


@dataclass(frozen=True)
class AnsweredXray:
    """An answered X-ray, with the served model's output."""

    request_id: str
    request: SegmentRequest
    given: NetworkInput
    output: NetworkOutput


@dataclass
class _Chosen:
    """A waiting X-ray; `upload` is kept if it must be prepared again."""

    xray: AnsweredXray
    upload: Blob | None = field(repr=False, default=None)


class _ShadowReadiness:
    """Receives the shadow model's state, which does not affect the service's readiness."""

    def mark_ready(self, self_test: SelfTestResult) -> None:
        """Do nothing."""

    def mark_recovering(self, reason: str) -> None:
        """Do nothing."""

    def mark_broken(self, reason: str) -> None:
        """Do nothing; the log has the reason."""


class Shadow:
    """The shadow model, its queue, and the task that empties it."""

    def __init__(
        self,
        settings: Settings,
        images: ImageWorkers,
        metrics: ShadowMetrics,
        factory: PredictorFactory,
        is_busy: Callable[[], bool],
    ) -> None:
        """Build the parts; nothing runs before `start`.

        Args:
            settings: settings with the shadow model's folder and share.
            images: image workers of the service.
            metrics: gets the comparisons.
            factory: loads the model.
            is_busy: returns whether a request runs.
        """
        assert settings.shadow_model is not None  # otherwise there is no shadow model
        self._share = settings.shadow_share
        self._images = images
        self._metrics = metrics
        self._is_busy = is_busy
        self._queue: asyncio.Queue[_Chosen] = asyncio.Queue(QUEUE_LIMIT)
        self._upload_bytes = 0
        self._running: asyncio.Task[None] | None = None
        self._fleet = ComputeFleet(
            _shadow_settings(settings, settings.shadow_model),
            _ShadowReadiness(),
            metrics,
            factory,
            on_batch=lambda size, seconds: None,
            on_refused=lambda error: None,
            takes_all_gpus=False,
            log=logger,
        )
        metrics.want_one()

    def start(self) -> None:
        """Start loading the model."""
        self._fleet.start()
        self._running = asyncio.create_task(self._run())

    async def close(self, timeout_s: float) -> None:
        """End the model and drop waiting X-rays."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        while not self._queue.empty():
            self._let_go(self._queue.get_nowait())
        await asyncio.to_thread(self._fleet.close, timeout_s)

    def show(self) -> None:
        """Publish whether the model is loaded, and its memory."""
        model = self._fleet.model
        self._metrics.show(
            is_ready=model is not None, resident_bytes=self._fleet.memory().resident_bytes
        )
        if model is not None:
            info = model.info
            self._metrics.show_model(
                name=info.name, version=info.version, sha256=info.sha256, device=info.device
            )

    def offer(self, xray: AnsweredXray, upload: Blob) -> None:
        """Choose an X-ray or not, at once and without errors.

        Args:
            xray: the X-ray with its answer.
            upload: its file, which the caller closes.
        """
        if random.random() >= self._share:
            return
        model = self._fleet.model
        if model is None:
            self._metrics.count_outcome("not_ready")
        elif not _is_comparable(xray, model.info):
            self._metrics.count_outcome("not_comparable")
        elif self._queue.full() or not self._has_room(xray, upload, model.info):
            self._metrics.count_outcome("dropped")
        else:
            try:
                self._queue.put_nowait(self._chosen(xray, upload, model.info))
            except OSError:  # no descriptor is available for the upload
                self._metrics.count_outcome("dropped")

    def _has_room(self, xray: AnsweredXray, upload: Blob, info: ModelInfo) -> bool:
        is_kept = xray.given.side != info.input_size
        return not is_kept or self._upload_bytes + upload.size_bytes <= MOST_UPLOAD_BYTES

    def _chosen(self, xray: AnsweredXray, upload: Blob, info: ModelInfo) -> _Chosen:
        if xray.given.side == info.input_size:
            return _Chosen(xray)
        kept = upload.duplicate()
        self._upload_bytes += kept.size_bytes
        return _Chosen(xray, kept)

    def _let_go(self, chosen: _Chosen) -> None:
        if chosen.upload is not None:
            self._upload_bytes -= chosen.upload.size_bytes
            chosen.upload.close()

    async def _run(self) -> None:
        while True:
            chosen = await self._queue.get()
            with ExitStack() as held:
                held.callback(self._let_go, chosen)
                self._metrics.count_outcome(await self._outcome(chosen))

    async def _outcome(self, chosen: _Chosen) -> str:
        try:
            if not await self._may_begin():
                return "dropped"
            async with asyncio.timeout(LONGEST_S):
                await self._compare(chosen)
        except (ServiceError, TimeoutError) as error:
            logger.warning("shadow failed", extra={"fields": {"error_type": type(error).__name__}})
            return "failed"
        except Exception as error:  # the border: the next X-ray may succeed
            logger.error("shadow failed", extra={"fields": describe_error(error)})
            return "failed"
        return "compared"

    async def _may_begin(self) -> bool:
        """Wait until no request runs; False if that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while self._is_busy():
                    await asyncio.sleep(LOOK_INTERVAL_S)
                return True
        return False

    async def _compare(self, chosen: _Chosen) -> None:
        given = await self._given(chosen)
        job = self._fleet.submit(given, lambda: None)
        try:
            result = await asyncio.wrap_future(job.future)
        finally:
            self._fleet.withdraw(job)
        xray = chosen.xray
        pairs = _pairs(xray.output, result.output)
        sizes = (xray.given.side, given.side)
        order = CompareOrder(
            given.width,
            given.height,
            xray.request.threshold,
            tuple(
                LogitsPair(LogitsSize(one.side, sizes[0]), LogitsSize(other.side, sizes[1]))
                for one, other in pairs
            ),
        )
        logits = [logits for one, other in pairs for logits in (one.logits, other.logits)]
        found = await self._images.compare(order, logits)
        for (one, _), masks in zip(pairs, found, strict=True):
            self._metrics.note_comparison(masks.dice, masks.area_ratio)
            if masks.dice < DIFFERENT_DICE:
                fields = {
                    "request_id": xray.request_id, "structure": one.structure,
                    "dice": round(masks.dice, 4), "area_ratio": masks.area_ratio,
                    "shadow": f"{result.model.name}/{result.model.version}",
                }  # fmt: skip
                logger.info("shadow differs", extra={"fields": fields})

    async def _given(self, chosen: _Chosen) -> NetworkInput:
        """Return the shadow model's input: the served model's, or the X-ray prepared again."""
        model = self._fleet.model
        structures = _structures(chosen.xray, None if model is None else model.info)
        given = chosen.xray.given
        if chosen.upload is not None and model is not None:
            side = model.info.input_size
            request = chosen.xray.request
            with await self._images.open(
                chosen.upload, request, side, urgency=IDLE_URGENCY
            ) as opened:
                given = opened.given
        return dataclasses.replace(given, structures=structures)


def _shadow_settings(settings: Settings, folder: Path) -> Settings:
    """Return the settings of the shadow model's process."""
    one_device = settings.devices.split(",")[0] if settings.devices != ALL_DEVICES else ALL_DEVICES
    return settings.model_copy(
        update={
            "model": folder,
            "further_models": (),
            "devices": one_device,
            "threads": 1,
            "max_batch": 1,
            "batch_window_s": 0.0,
            "embedding_cache_bytes": 0,
            "stall_timeout_s": STALL_TIMEOUT_S,
        }
    )


def _is_comparable(xray: AnsweredXray, info: ModelInfo) -> bool:
    """Return whether the shadow model can answer the same request."""
    return xray.given.convention in info.manifest.conventions and bool(_structures(xray, info))


def _structures(xray: AnsweredXray, info: ModelInfo | None) -> tuple[Structure, ...]:
    known = {LUNGS, *(() if info is None else info.manifest.structures)}
    return tuple(one for one in xray.given.structures if one in known)


def _pairs(given: NetworkOutput, other: NetworkOutput) -> list[tuple[BoxLogits, BoxLogits]]:
    """Return the masks of the same structure in the same box."""
    others: Mapping[tuple[Box, Structure], BoxLogits] = {
        (one.box, one.structure): one for one in other.masks
    }
    found = [
        (one, others[one.box, one.structure])
        for one in given.masks
        if (one.box, one.structure) in others
    ]
    return found[:MOST_MASKS]
