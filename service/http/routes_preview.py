"""`POST /preview`: the grey values of an X-ray for a screen, before it is segmented."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from service import errors
from service.http.mask_source import MaskSource
from service.http.preview_endpoint import PreviewEndpoint
from service.http.problems import KEY_REFUSALS, problem_responses
from service.http.xray_request import answer_xray
from service.http.xray_routes import PREVIEW_PATH
from service.imaging.task_data import PREVIEW_LONGEST_SIDE, PREVIEW_MEDIA_TYPE

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


def add_preview_route(router: APIRouter, masks: MaskSource) -> None:
    """Add the route.

    Args:
        router: router that gets the route, for OpenAPI; `XrayRoutes` answers its requests.
        masks: source of the answers.
    """
    endpoint = PreviewEndpoint(masks)

    async def preview(request: Request) -> Response:
        return await answer_xray(request, masks, endpoint.answer)

    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The grey values.",
            "content": {PREVIEW_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        },
        **problem_responses(*_REFUSALS),
    }
    router.add_api_route(
        PREVIEW_PATH,
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
