"""`POST /segment` and `/v1/segment`: the route and its description for OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from model_store.conventions import CONVENTIONS, DEFAULT_CONVENTION
from service import errors
from service.http.answer_headers import MASK_HEADERS
from service.http.form import (
    DEFAULT_SHAPES,
    ISLAND_WORDS,
    LUNG_WORDS,
    OVERLAY_WORDS,
    RATIO_WORD,
    SHAPE_WORDS,
    VIEW_WORDS,
)
from service.http.mask_source import MaskSource
from service.http.problems import KEY_REFUSALS, problem_responses
from service.http.segment_endpoint import SegmentEndpoint
from service.http.xray_request import answer_xray
from service.imaging.answer_schema import SegmentAnswer
from service.imaging.segment_request import DEFAULT_THRESHOLD
from service.metrics import SEGMENT_PATHS

_REFUSALS = (
    errors.MissingKey,
    *KEY_REFUSALS,
    errors.HostNotAllowed,
    errors.ForeignOrigin,
    errors.UploadTooSlow,
    errors.HeadersTooLarge,
    errors.UndecodableImage,
    errors.MalformedRequest,
    errors.NotAcceptable,
    errors.PayloadTooLarge,
    errors.TooManyPixels,
    errors.UnsupportedMediaType,
    errors.UnsupportedTransferSyntax,
    errors.InvalidBox,
    errors.InvalidField,
    errors.MissingField,
    errors.UnknownModel,
    errors.ImageTooCostly,
    errors.QueueFull,
    errors.InternalError,
    errors.NotReady,
    errors.AuditUnavailable,
    errors.ComputeLost,
    errors.WorkerLost,
    errors.OutOfMemory,
    errors.Draining,
    errors.DeadlineExceeded,
)

BOX_PATTERN = r"^\s*-?[0-9.]+\s*(,\s*-?[0-9.]+\s*){3}$"
"""Four decimal numbers, without an example, because the documentation page would send it as a
box."""

SHAPES_PATTERN = f"^({'|'.join(SHAPE_WORDS)})( *, *({'|'.join(SHAPE_WORDS)})){{0,4}}$"

_FORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
    "additionalProperties": False,
    "properties": {
        "image": {
            "type": "string",
            "format": "binary",
            "description": "frontal chest X-ray: PNG (8 or 16 bit), JPEG, TIFF or DICOM",
        },
        "bbox": {
            "type": "array",
            "items": {"type": "string", "pattern": BOX_PATTERN},
            "description": "boxes x0,y0,x1,y1 in pixels of the image, half-open, origin top left; "
            "repeat the field for several; none means the whole image",
        },
        "model": {
            "type": "string",
            "pattern": "^[^/]+(/[^/]+)?$",
            "description": "which of the models in GET /v1/models answers: name/version, or a name "
            "for the first of it; none means the first model",
        },
        "convention": {
            "type": "string",
            "enum": list(CONVENTIONS),
            "default": DEFAULT_CONVENTION,
            "description": "lung_field: the visible field, heart outside; whole_lung: the lung "
            "behind the heart inside as well",
        },
        "threshold": {
            "type": "number",
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 1,
            "default": DEFAULT_THRESHOLD,
            "description": "probability from which a pixel is lung",
        },
        "overlay": {
            "anyOf": [{"type": "boolean"}, {"type": "string", "enum": list(OVERLAY_WORDS)}],
            "default": True,
            "description": "whether a JSON answer holds the overlay picture: true for a PNG in "
            "overlay_png, jpeg for a JPEG in overlay_jpeg (a quarter of the size, for screens, not "
            "for measuring), false for none",
        },
        "lungs": {
            "type": "string",
            "enum": list(LUNG_WORDS),
            "default": "both",
            "description": "both lungs in one mask, each in a mask of its own (the patient's right "
            "before the left), or one of them; sides are the patient's",
        },
        "structure": {
            "type": "string",
            "pattern": "^(lungs|heart)( *, *(lungs|heart))?$",
            "default": "lungs",
            "description": "what the masks show: lungs, heart, or lungs,heart; the heart where the "
            "model knows it (structures in GET /v1/model); all from one pass of the encoder",
        },
        "shapes": {
            "type": "string",
            "pattern": SHAPES_PATTERN,
            "default": DEFAULT_SHAPES,
            "description": "forms in which a JSON answer holds each mask, each once, with commas: "
            "png, rle, polygon, band (the contours of probability 0.25 and 0.75 and how far they "
            "are apart), probability (a grey PNG of 0 to 255)",
        },
        "islands": {
            "type": "string",
            "enum": list(ISLAND_WORDS),
            "default": "keep",
            "description": "drop removes pieces below 2 % of the mask",
        },
        "measurements": {
            "anyOf": [{"type": "boolean"}, {"type": "string", "enum": [RATIO_WORD]}],
            "default": False,
            "description": "whether a JSON answer holds measurements of each lung; cardiothoracic "
            "adds the heart and the cardiothoracic ratio, in a report as well",
        },
        "view": {
            "type": "string",
            "enum": list(VIEW_WORDS),
            "description": "a picture to look at: in view_png of a JSON answer, or as the answer "
            "where image/png is accepted; isolated keeps the X-ray's bits, enhanced (CLAHE inside "
            "the lungs) is for viewing, not for measuring",
        },
        "clip": {
            "type": "boolean",
            "default": False,
            "description": "true cuts the lungs of the whole image at each box, and does not ask "
            "which lungs a box means",
        },
        "legend": {
            "type": "boolean",
            "default": False,
            "description": "whether a margin below the view says convention, confidence and "
            "warnings",
        },
        "objects": {
            "type": "string",
            "pattern": "^(seg|sc|sr|gsps)(,(seg|sc|sr|gsps)){0,3}$",
            "description": "which DICOM objects an answer of several holds, each once, for example "
            "seg,sc,sr; gsps, a presentation state with the outlines, comes only when listed",
        },
    },
}

_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": _FORM_SCHEMA,
                "encoding": {
                    "image": {"contentType": "application/octet-stream"},
                    "bbox": {"style": "form", "explode": True},
                },
            },
            "application/dicom": {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "the DICOM file itself; the form's other fields are then "
                    "parameters of the address",
                },
            },
        },
    },
    "parameters": [
        {
            "name": "X-Request-ID",
            "in": "header",
            "required": False,
            "description": "id of the request, 1 to 128 letters, digits or ._:- (another value is "
            "replaced); comes back in the answer and stands in the log",
            "schema": {"type": "string"},
        },
        {
            "name": "traceparent",
            "in": "header",
            "required": False,
            "description": "W3C trace context; its trace id stands in the log",
            "schema": {"type": "string"},
        },
    ],
}

_DESCRIPTION = """\
Segments the lungs on one frontal chest X-ray.

The form of the answer follows `Accept`: `application/json` (default), `image/png` (the mask of
the one box, or of the whole image; score, area and model are in `X-Lungseg-...` headers), and,
when the image is DICOM, `application/dicom` (a DICOM SEG) or
`multipart/related; type="application/dicom"` (SEG, secondary capture and structured report). All
boxes of a request share one pass of the image encoder. The masks are decision support: a person
must look at them.
"""


def add_segment_routes(router: APIRouter, masks: MaskSource) -> None:
    """Add the routes that answer with masks.

    Args:
        router: router that gets the routes, for OpenAPI; `XrayRoutes` answers their requests.
        masks: source of the answers.
    """
    endpoint = SegmentEndpoint(masks)

    async def segment(request: Request) -> Response:
        return await answer_xray(request, masks, endpoint.answer)

    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "model": SegmentAnswer,
            "description": "The masks.",
            "headers": MASK_HEADERS,
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "application/dicom": {"schema": {"type": "string", "format": "binary"}},
                "multipart/related": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        **problem_responses(*_REFUSALS),
    }
    for path, name in zip(SEGMENT_PATHS, ("segment", "segment_v1"), strict=True):
        router.add_api_route(
            path,
            segment,
            methods=["POST"],
            operation_id=name,
            tags=["segmentation"],
            summary="Segment the lungs",
            description=_DESCRIPTION,
            response_class=JSONResponse,
            response_model=None,
            responses=answers,
            openapi_extra=_REQUEST,
        )
