"""Answers one `POST /preview`: an X-ray in, its grey values out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.errors import DeadlineExceeded, InvalidField
from service.http.form import most_fields, require_image_alone
from service.http.held_response import HeldResponse
from service.http.mask_source import MaskSource
from service.http.upload import RequestBody
from service.http.xray_request import deadline, receive_upload, unless_caller_leaves
from service.pipeline.held_answer import HeldAnswer
from service.request_record import record_of


class PreviewEndpoint:
    """Reads requests for grey values and answers them."""

    def __init__(self, masks: MaskSource) -> None:
        """Keep the source of answers."""
        self._masks = masks

    async def answer(self, request: Request, body: RequestBody) -> Response:
        """Answer one request.

        Args:
            request: the request, its body unread.
            body: the incoming side of the same request.

        Raises:
            ServiceError: the request is refused.
            CallerLeft: the caller has left.
        """
        unread = None
        if request.url.query:
            unread = InvalidField("The address has a query (after '?'), which is not read.")
        await self._masks.admit(request, unread, for_masks=False)
        try:
            async with deadline(self._masks.settings.request_timeout_s):
                found = await self._read_and_preview(request, body)
        except TimeoutError:
            raise DeadlineExceeded(
                "The picture was not ready in time; send it again when the service is less busy."
            ) from None
        return HeldResponse(found, self._masks.keep_answer, vary=None)

    async def _read_and_preview(self, request: Request, body: RequestBody) -> HeldAnswer:
        most = most_fields(self._masks.settings.max_boxes)
        record = record_of(request.scope)
        receiving = receive_upload(request, body, self._masks, most)
        with self._masks.uploads.pace.running(record.caller), await receiving as upload:
            require_image_alone(upload.fields)
            assert upload.image is not None  # a form without an image is refused
            work = self._masks.preview(upload.image, upload.size_bytes, record)
            return await unless_caller_leaves(body, work)
