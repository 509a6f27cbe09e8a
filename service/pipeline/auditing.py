"""Write an audit entry for each X-ray and its caller.

An entry has digests of X-ray and answer, and nothing that names a patient. A thread digests the
X-ray while workers and network process it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from service.audit.log import AuditLog
from service.errors import AuditUnavailable, ServiceError
from service.imaging.segment_request import SegmentRequest
from service.pipeline.held_answer import HeldAnswer
from service.request_record import RequestRecord
from service.workers.shared_memory import Blob

PIECE_BYTES = 1 << 20
UNAVAILABLE_SENTENCE = (
    "The audit log cannot be written, and this service gives no mask without it; tell its operator."
)
GIVEN_UP = "given_up"
"""Outcome of a request whose caller left or whose deadline passed."""


class Auditing:
    """Wraps requests for masks with audit entries."""

    def __init__(self, log: AuditLog, *, is_required: bool) -> None:
        """Keep the log.

        Args:
            log: gets an entry for each request whose upload was read.
            is_required: whether a request is refused when its entry cannot be written.
        """
        self.log = log
        self._is_required = is_required

    def refuse_if_unavailable(self) -> None:
        """Refuse a request whose entry could not be written.

        Raises:
            AuditUnavailable: writing fails, and entries are required.
        """
        if self._is_required and self.log.is_failing:
            raise AuditUnavailable(UNAVAILABLE_SENTENCE, retry_after_s=5)

    async def noted(
        self,
        image: Blob,
        request: SegmentRequest,
        record: RequestRecord,
        work: Callable[[], Awaitable[HeldAnswer]],
    ) -> HeldAnswer:
        """Wait for an answer, and return it when its entry is queued.

        Args:
            image: the upload, which the caller closes.
            request: the caller's request.
            record: record with request id, key and model.
            work: makes the answer.

        Raises:
            AuditUnavailable: the entry cannot be written, and entries are required.
        """
        digesting = asyncio.ensure_future(asyncio.to_thread(_digest_of, image.duplicate()))
        try:
            answer = await work()
            entry = _entry(record, request, "answered") | _answered(answer)
            entry["answer_sha256"] = await asyncio.to_thread(_digest_of, answer.body.duplicate())
        except ServiceError as error:
            entry = _entry(record, request, error.code)
            self.log.append(entry | {"input_sha256": await digesting})
            raise
        except BaseException as error:
            is_cancelled = isinstance(error, asyncio.CancelledError)
            entry = _entry(record, request, GIVEN_UP if is_cancelled else "internal_error")
            digesting.add_done_callback(lambda done: self._append_left(entry, done))
            raise
        written = self.log.append(entry | {"input_sha256": await digesting})
        if self._is_required:
            try:
                await asyncio.wrap_future(written)
            except OSError:
                raise AuditUnavailable(UNAVAILABLE_SENTENCE, retry_after_s=5) from None
        return answer

    def _append_left(self, entry: dict[str, Any], digesting: asyncio.Future[str]) -> None:
        is_known = not digesting.cancelled() and digesting.exception() is None
        self.log.append(entry | {"input_sha256": digesting.result() if is_known else None})


def _entry(record: RequestRecord, request: SegmentRequest, outcome: str) -> dict[str, Any]:
    model = record.model
    return {
        "event": "segment",
        "outcome": outcome,
        "request_id": record.request_id,
        "key": record.key_name,
        "model": None if model is None else f"{model.name}/{model.version}",
        "model_sha256": None if model is None else model.sha256,
        "convention": request.convention,
        "threshold": request.threshold,
        "boxes": [list(box) for box in request.boxes],
        "clip": request.clips_to_boxes,
        "lungs": request.lungs.value,
        "structures": list(request.structures),
        "image": _image(record),
    }


def _image(record: RequestRecord) -> dict[str, float] | None:
    """Return the size and mean grey level of an opened X-ray."""
    if record.width is None or record.height is None or record.grey_level is None:
        return None
    grey_level = round(record.grey_level, 2)
    return {"width": record.width, "height": record.height, "grey_level": grey_level}


def _answered(answer: HeldAnswer) -> dict[str, Any]:
    facts = answer.facts
    return {
        "media_type": facts.media_type.split(";")[0],
        "area_px": list(facts.areas_px),
        "confidence": [round(value, 4) for value in facts.confidences],
        "lungs_found": [
            {"confidence": round(confidence, 4), "area_ratio": round(ratio, 5)}
            for confidence, ratio in zip(facts.lungs_confidences, facts.area_ratios, strict=False)
        ],
        "warnings": [str(code) for code in facts.warning_codes],
    }


def _digest_of(held: Blob) -> str:
    """Digest an upload or an answer in pieces, and close this handle of it."""
    digest = hashlib.sha256()
    with held:
        for offset in range(0, held.size_bytes, PIECE_BYTES):
            digest.update(held.read_at(offset, min(PIECE_BYTES, held.size_bytes - offset)))
    return digest.hexdigest()
