"""`POST /preview`: the grey values of an X-ray for a screen, before anything is asked about it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from service import errors
from service.http.early_response import EarlyResponse
from service.http.form import require_image_alone
from service.http.held_response import HeldResponse
from service.http.key_file import KeyScope
from service.http.keys import ApiKeys
from service.http.problems import KEY_REFUSALS, noted_problem, problem_responses
from service.http.segment_endpoint import deadline, receive_upload, unless_caller_leaves
from service.http.upload import RequestBody
from service.imaging.task_data import PREVIEW_LONGEST_SIDE, PREVIEW_MEDIA_TYPE
from service.pipeline.held_answer import HeldAnswer
from service.pipeline.segmentation import SegmentationService
from service.request_record import record_of

_REFUSALS = (
    errors.MissingKey,
    *KEY_REFUSALS,
    errors.HostNotAllowed,
    errors.ForeignOrigin,
    errors.UploadTooSlow,
    errors.UndecodableImage,
    errors.MalformedRequest,
    errors.PayloadTooLarge,
    errors.TooManyPixels,
    errors.UnsupportedMediaType,
    errors.UnsupportedTransferSyntax,
    errors.InvalidField,
    errors.MissingField,
    errors.ImageTooCostly,
    errors.QueueFull,
    errors.InternalError,
    errors.NotReady,
    errors.WorkerLost,
    errors.Draining,
    errors.DeadlineExceeded,
)

_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {"image": {"type": "string", "format": "binary"}},
                },
                "encoding": {"image": {"contentType": "application/octet-stream"}},
            }
        },
    }
}

_DESCRIPTION = f"""\
Decodes an X-ray as `POST /segment` does and returns its grey values; no mask is predicted.

Little-endian uint16, row by row, brighter = denser, at most {PREVIEW_LONGEST_SIDE} pixels on the
longer side. `X-Lungseg-Preview-Width` and `-Height` tell their size, `X-Lungseg-Image-Width` and
`-Height` that of the X-ray, in whose pixels boxes are given. `X-Lungseg-Window-Low` and `-High`
tell what to show as black and white.
"""


def add_preview_route(
    router: APIRouter, service: SegmentationService, keys: ApiKeys | None
) -> None:
    """Add the route.

    Args:
        router: gets the route.
        service: what answers it.
        keys: the API keys of which one is needed; None for no key.
    """

    async def read_and_preview(request: Request, body: RequestBody) -> HeldAnswer:
        with await receive_upload(request, body, service) as upload:
            require_image_alone(upload.fields)
            assert upload.image is not None  # a form without one is refused
            record = record_of(request.scope)
            work = service.preview(upload.image, upload.size_bytes, record)
            return await unless_caller_leaves(body, work)

    async def answer(request: Request, body: RequestBody) -> Response:
        if keys is not None:
            keys.admit(request, KeyScope.SEGMENT)
        service.readiness.require_ready()
        if request.url.query:
            raise errors.InvalidField("The address has a query (after '?'), which is not read.")
        service.admission.refuse_if_full()
        try:
            async with deadline(service.settings.request_timeout_s):
                found = await read_and_preview(request, body)
        except TimeoutError:
            raise errors.DeadlineExceeded(
                "The picture was not ready in time; send it again when the service is less busy."
            ) from None
        return HeldResponse(found, service.admission.keep_answer, vary=None)

    async def preview(request: Request) -> Response:
        body = RequestBody(request.receive, service.settings.upload_idle_timeout_s)
        with service.count_running():
            try:
                return await answer(request, body)
            except errors.ServiceError as error:
                if request.headers.get("expect", "").lower() == "100-continue":
                    raise
                return EarlyResponse(noted_problem(request, error), body)

    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The grey values.",
            "content": {PREVIEW_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        },
        **problem_responses(*_REFUSALS),
    }
    router.add_api_route(
        "/preview",
        preview,
        methods=["POST"],
        operation_id="preview",
        tags=["segmentation"],
        summary="Decode an X-ray for a screen",
        description=_DESCRIPTION,
        response_model=None,
        responses=answers,
        openapi_extra=_REQUEST,
    )
