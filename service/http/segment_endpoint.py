"""Answer one `POST /segment`: read its headers and form, and make the HTTP answer."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.errors import DeadlineExceeded, NotAcceptable
from service.http.accept import wanted_answer
from service.http.form import most_fields, read_form
from service.http.held_response import HeldResponse
from service.http.mask_source import MaskSource
from service.http.upload import RequestBody
from service.http.xray_request import deadline, receive_upload, unless_caller_leaves
from service.imaging.segment_request import AnswerKind
from service.pipeline.held_answer import HeldAnswer
from service.request_record import record_of


class SegmentEndpoint:
    """Reads requests for masks and answers them."""

    def __init__(self, masks: MaskSource) -> None:
        """Keep the source of answers."""
        self._masks = masks

    async def answer(self, request: Request, body: RequestBody) -> Response:
        """Answer one request.

        Args:
            request: the request, its body unread.
            body: the incoming side of the same request.

        Returns:
            The answer in the form that `Accept` requests.

        Raises:
            ServiceError: the request is refused.
            CallerLeft: the caller has left.
        """
        kind, unacceptable = AnswerKind.JSON, None
        try:
            kind = wanted_answer(", ".join(request.headers.getlist("accept")))
        except NotAcceptable as error:
            unacceptable = error
        await self._masks.admit(request, unacceptable, for_masks=True)
        limit_s = self._masks.settings.request_timeout_s
        try:
            async with deadline(limit_s):
                answer = await self._read_and_segment(request, body, kind)
        except TimeoutError:
            raise DeadlineExceeded(
                f"The answer was not ready within {limit_s:g} seconds; send the request again "
                "when the service is less busy."
            ) from None
        return HeldResponse(answer, self._masks.keep_answer, vary="Accept")

    async def _read_and_segment(
        self, request: Request, body: RequestBody, kind: AnswerKind
    ) -> HeldAnswer:
        record, max_boxes = record_of(request.scope), self._masks.settings.max_boxes
        receiving = receive_upload(request, body, self._masks, most_fields(max_boxes))
        with self._masks.uploads.pace.running(record.caller), await receiving as upload:
            segment_request = read_form(upload.fields, kind, max_boxes=max_boxes)
            assert upload.image is not None  # a form without an image is refused
            work = self._masks.segment(upload.image, segment_request, upload.size_bytes, record)
            return await unless_caller_leaves(body, work)
