"""Messages between serving process and image worker about one X-ray, as JSON.

Pixels, the network's input, logits and the answer's body are passed as shared memory beside them.
The serving process does not trust a worker's messages, because the worker parsed untrusted bytes.
So each value has a type and bounds here, and text is short and printable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, with_config

from model_store.boxes import Box
from model_store.pictures.orientation import Orientation
from model_store.structures import Structure
from service.imaging.answer_data import AnswerContext
from service.imaging.response_warnings import WarningCode
from service.imaging.segment_request import SegmentRequest

OPEN_TASK, ANSWER_TASK, PREVIEW_TASK = "open", "answer", "preview"

PREVIEW_MEDIA_TYPE = "application/octet-stream"
PREVIEW_LONGEST_SIDE = 1600
"""Longest side of a preview in pixels; larger X-rays are reduced by an integer. A screen shows no
more, and 5 MB are sent."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_Seconds = Annotated[float, Field(ge=0, le=1e6)]
_Stages = dict[Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")], _Seconds]
_Sentence = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,1000}$")]
_MediaType = Annotated[
    str,
    StringConstraints(
        pattern=r"^(application/json|image/png|application/dicom|application/octet-stream"
        r'|multipart/related; type="application/dicom"; boundary=[A-Za-z0-9._-]{1,70})$'
    ),
]
_Side = Annotated[int, Field(ge=1, le=2**20)]


@with_config(_STRICT)
@dataclass(frozen=True)
class OpenOrder:
    """Order to decode and prepare an upload.

    Attributes:
        request: the caller's request.
        input_size: side of the network's input, pixels.
        max_pixels: most pixels allowed.
        requested_at: `time.perf_counter()` of the order.
    """

    request: SegmentRequest
    input_size: int
    max_pixels: int
    requested_at: float


@with_config(_STRICT)
@dataclass(frozen=True)
class PreviewOrder:
    """Order for the grey values of an upload, for display.

    Attributes:
        max_pixels: most pixels allowed.
    """

    max_pixels: int


@with_config(_STRICT)
@dataclass(frozen=True)
class OpenedFacts:
    """Facts about an opened X-ray for the serving process.

    Attributes:
        format: kind of the file.
        width: width in pixels.
        height: height in pixels.
        orientation: how to turn these pixels upright for the network.
        stage_seconds: seconds of `decode` and `preprocess`.
        grey_level: mean of the windowed grey values.
        xray_digest: digest that identifies the X-ray for an answer in DICOM; otherwise empty.
    """

    format: Literal["png", "jpeg", "tiff", "dicom"]
    width: _Side
    height: _Side
    bytes_per_pixel: Literal[1, 2]
    orientation: Orientation
    stage_seconds: _Stages
    grey_level: Annotated[float, Field(ge=0, le=255)]
    xray_digest: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""


@with_config(_STRICT)
@dataclass(frozen=True)
class BoxScore:
    """The network's output for one structure in one box, without its logits.

    Attributes:
        box: the box, in pixels.
        side: side of the logits.
        score: predicted IoU of the mask.
        structure: what the mask shows.
    """

    box: Box
    side: int
    score: float
    structure: Structure


@with_config(_STRICT)
@dataclass(frozen=True)
class AnswerOrder:
    """Order for masks and their rendering.

    Attributes:
        context: input of the answer beside the masks.
        facts: facts about the opened X-ray.
        input_size: side of the network's input, pixels.
        masks: the network's output, one for each structure of each box.
    """

    context: AnswerContext
    facts: OpenedFacts
    input_size: int
    masks: tuple[BoxScore, ...]


@with_config(_STRICT)
@dataclass(frozen=True)
class AnswerFacts:
    """Facts about an answer for the serving process, beside its body.

    Attributes:
        media_type: form of the body.
        headers: the answer's own headers.
        warning_codes: codes of the warnings in the answer.
        area_ratios: share of the image that the lungs cover, by boxes.
        lungs_confidences: the confidence of these masks.
        stage_seconds: seconds of `postprocess` and `render`.
        areas_px: pixels inside each answered mask.
        confidences: the confidence of each answered mask.
    """

    media_type: _MediaType
    headers: dict[
        Annotated[str, StringConstraints(pattern=r"^X-Lungseg-[A-Za-z0-9-]{1,40}$")],
        Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,1000}$")],
    ]
    warning_codes: tuple[WarningCode, ...]
    area_ratios: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    lungs_confidences: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    stage_seconds: _Stages
    areas_px: tuple[Annotated[int, Field(ge=0)], ...]
    confidences: tuple[Annotated[float, Field(ge=0, le=1)], ...]


@with_config(_STRICT)
@dataclass(frozen=True)
class RefusedFacts:
    """A worker's refusal of an upload.

    Attributes:
        code: code of a refusal of the service.
        detail: the sentence for the caller.
    """

    code: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")]
    detail: _Sentence


OPEN_ORDER: TypeAdapter[OpenOrder] = TypeAdapter(OpenOrder)
PREVIEW_ORDER: TypeAdapter[PreviewOrder] = TypeAdapter(PreviewOrder)
OPENED_FACTS: TypeAdapter[OpenedFacts] = TypeAdapter(OpenedFacts)
ANSWER_ORDER: TypeAdapter[AnswerOrder] = TypeAdapter(AnswerOrder)
ANSWER_FACTS: TypeAdapter[AnswerFacts] = TypeAdapter(AnswerFacts)
REFUSED_FACTS: TypeAdapter[RefusedFacts] = TypeAdapter(RefusedFacts)


def as_json(adapter: TypeAdapter[Any], value: object) -> dict[str, Any]:
    """Return a value as an object of JSON types."""
    found: dict[str, Any] = adapter.dump_python(value, mode="json")
    return found
