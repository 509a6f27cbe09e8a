"""Prove repeatedly that image workers decode the model's golden image.

A ready service needs more than a model that gives the right mask: workers that decode X-rays.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from model_store.conventions import DEFAULT_CONVENTION
from model_store.model_index import default_model_folder
from model_store.model_info import ModelInfo
from service.compute.readiness import Readiness
from service.errors import ServiceError
from service.imaging.segment_request import AnswerKind, SegmentRequest
from service.pipeline.image_workers import ImageWorkers
from service.settings import Settings
from service.workers.shared_memory import Blob

logger = logging.getLogger("service.images")

LOOK_INTERVAL_S, LONGEST_PAUSE_S = 0.25, 8.0
PATIENCE_S = 2.0
"""How long there may be no worker at all; a replacement takes a tenth of it."""
PROOF_TIMEOUT_S = 30.0
"""Deadline of a proof, which waits for its turn behind callers' uploads."""

LOST_SENTENCE = "No image worker can decode the golden image; new ones are being started."
_WORKERS_ASKED = 3
_MAX_PIXELS = 2**26
"""Most pixels of the golden image, which may exceed the callers' limit."""
_ASKED = SegmentRequest((), DEFAULT_CONVENTION, 0.5, False, AnswerKind.JSON)


class ImageProof:
    """Watches the image workers and reports to readiness."""

    def __init__(
        self,
        images: ImageWorkers,
        readiness: Readiness,
        model: Callable[[], ModelInfo | None],
        settings: Callable[[], Settings],
    ) -> None:
        """Keep the parts; nothing runs before `watch`.

        Args:
            images: image workers to prove.
            readiness: gets the result.
            model: returns the loaded model; None while there is none.
            settings: settings with the model's folder and the seconds between two proofs.
        """
        self._images = images
        self._readiness = readiness
        self._model = model
        self._settings = settings
        self._digests: dict[str, bytes] = {}
        self._golden_images: dict[str, bytes] = {}

    async def watch(self) -> None:
        """Prove the workers at once and then periodically, until cancelled."""
        proven_at, last_seen, pause_s = -float("inf"), time.monotonic(), LOOK_INTERVAL_S
        while True:
            now = time.monotonic()
            if self._images.ready_workers:
                last_seen = now
            model = self._model()
            if now - last_seen > PATIENCE_S:
                self._readiness.mark_images_lost(LOST_SENTENCE)
                proven_at = -float("inf")
            elif model is not None and now - proven_at >= self._settings().recheck_interval_s:
                if await self._is_proven_by_any(model):
                    pause_s, proven_at = LOOK_INTERVAL_S, time.monotonic()
                    self._readiness.mark_images_ready()
                else:
                    self._readiness.mark_images_lost(LOST_SENTENCE)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _is_proven_by_any(self, model: ModelInfo) -> bool:
        """Try several workers, because one may be killed during the proof."""
        for _ in range(_WORKERS_ASKED):
            if await self._is_proven(model):
                return True
        return False

    async def _is_proven(self, model: ModelInfo) -> bool:
        try:
            with Blob.of(self._golden_image(model)) as image:
                opening = self._images.open(image, _ASKED, model.input_size, _MAX_PIXELS)
                with await asyncio.wait_for(opening, PROOF_TIMEOUT_S) as opened:
                    digest = hashlib.sha256(opened.given.pixels).digest()
        except (ServiceError, OSError, TimeoutError) as error:
            fields = {"error_type": type(error).__name__}
            logger.error("golden image not decoded", extra={"fields": fields})
            return False
        # Every later worker must give the first one's result.
        return self._digests.setdefault(model.sha256, digest) == digest

    def _golden_image(self, model: ModelInfo) -> bytes:
        """Return the image from when the model was loaded, whatever is on disk now."""
        if model.sha256 not in self._golden_images:
            test = model.manifest.self_test
            assert test is not None  # a model without a golden image is not served
            folder: Path = self._settings().model or default_model_folder()
            self._golden_images[model.sha256] = (folder / test.image_file).read_bytes()
        return self._golden_images[model.sha256]
