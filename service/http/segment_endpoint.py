"""One `POST /segment`: what HTTP says about it is read here, and answered here."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.errors import DeadlineExceeded
from service.http.accept import wanted_answer
from service.http.form import most_fields, read_form
from service.http.held_response import HeldResponse
from service.http.key_file import KeyScope
from service.http.keys import ApiKeys
from service.http.upload import CallerLeft, RequestBody, Upload, UploadLimits, read_upload
from service.imaging.segment_request import AnswerKind
from service.pipeline.held_answer import HeldAnswer
from service.pipeline.segmentation import SegmentationService
from service.request_record import record_of


class SegmentEndpoint:
    """Reads requests for masks and answers them."""

    def __init__(self, service: SegmentationService, keys: ApiKeys | None) -> None:
        """Keep what answers, and the API keys of which one is needed; None for no key."""
        self._service = service
        self._keys = keys

    async def answer(self, request: Request, body: RequestBody) -> Response:
        """Answer one request.

        Args:
            request: the request, its body unread.
            body: the incoming side of the same request.

        Returns:
            The answer in the form that `Accept` asks for.

        Raises:
            ServiceError: the request is refused.
            CallerLeft: there is nobody to answer.
        """
        if self._keys is not None:
            self._keys.admit(request, KeyScope.SEGMENT)
        self._service.readiness.require_some_model()
        kind = wanted_answer(", ".join(request.headers.getlist("accept")))
        self._service.admission.refuse_if_full()
        if self._service.auditing is not None:
            self._service.auditing.refuse_if_unavailable()
        limit_s = self._service.settings.request_timeout_s
        try:
            async with deadline(limit_s):
                answer = await self._read_and_segment(request, body, kind)
        except TimeoutError:
            raise DeadlineExceeded(
                f"The answer was not ready within {limit_s:g} seconds; send the request again "
                "when the service is less busy."
            ) from None
        return HeldResponse(answer, self._service.admission.keep_answer, vary="Accept")

    async def _read_and_segment(
        self, request: Request, body: RequestBody, kind: AnswerKind
    ) -> HeldAnswer:
        record = record_of(request.scope)
        with await receive_upload(request, body, self._service) as upload:
            asked = read_form(upload.fields, kind, max_boxes=self._service.settings.max_boxes)
            assert upload.image is not None  # a form without one is refused
            work = self._service.segment(upload.image, asked, upload.size_bytes, record)
            return await unless_caller_leaves(body, work)


async def receive_upload(
    request: Request, body: RequestBody, service: SegmentationService
) -> Upload:
    """Read the form of a request within the limits of the service, and note its size.

    The caller closes what is returned.

    Raises:
        ServiceError: the upload is refused.
        CallerLeft: the caller is gone.
    """
    settings, admission = service.settings, service.admission
    limits = UploadLimits(settings.max_upload_bytes, most_fields(settings.max_boxes))
    share = admission.uploads.begin(body.give_way)
    try:
        query = request.query_params.multi_items()
        upload = await read_upload(body, request.headers, query, limits, share.add)
    finally:
        share.close()
    record_of(request.scope).upload_bytes = upload.size_bytes
    return upload


def deadline(timeout_s: float) -> asyncio.Timeout:
    """Return the block that ends with TimeoutError after `timeout_s` seconds."""
    return asyncio.timeout(timeout_s)


async def unless_caller_leaves(
    body: RequestBody, work: Coroutine[Any, Any, HeldAnswer]
) -> HeldAnswer:
    """Wait for the work; cancel it and raise CallerLeft when the connection closes first."""
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
