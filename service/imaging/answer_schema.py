"""The JSON answer of `POST /segment`: its members, their meaning, and an example."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from model_store.model_index import default_model
from service.imaging.response_warnings import WarningCode

_SHA256 = "b9d9a1f2c3e4d5061728394a5b6c7d8e9f00112233445566778899aabbccddee"


class Answer(BaseModel):
    """A frozen model that allows members whose names begin with `model`."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ModelIdentity(Answer):
    """The model that made the masks."""

    name: str = Field(examples=["cxr-lung-tiny"])
    version: str = Field(examples=["1"])
    sha256: str = Field(description="digest of the weights", examples=[_SHA256])
    precision: str = Field(description="of its products", examples=["int8"])
    weight_bits: int = Field(
        description="bits of a stored weight; fewer than 8 make a smaller file, and the same "
        "integer products",
        examples=[8],
    )
    device: str = Field(description="where it runs", examples=["cpu"])


class ImageSize(Answer):
    """Size of the decoded image in pixels."""

    width: int = Field(examples=[1024])
    height: int = Field(examples=[1024])


class RunLengthMask(Answer):
    """A mask as COCO compressed run lengths (pycocotools reads it)."""

    size: tuple[int, int] = Field(description="height, width", examples=[[1024, 1024]])
    counts: str = Field(description="column-major run lengths in COCO's ASCII form")


Polygons = tuple[tuple[tuple[tuple[int, int], ...], ...], ...]
"""Polygons, each of rings, each of corners x, y; pixel i covers i to i + 1."""


class UncertaintyBand(Answer):
    """Where the border may be: between the contours of probability 0.25 and 0.75."""

    outer: Polygons = Field(description="polygons of the contour of probability 0.25")
    inner: Polygons = Field(description="polygons of the contour of probability 0.75")
    mean_px: float | None = Field(
        description="mean distance of the two along the mask's outline; null if one is empty"
    )
    p95_px: float | None = Field(description="its 95th percentile")


class SegmentedMask(Answer):
    """One structure inside one box."""

    bbox: tuple[float, float, float, float] = Field(
        description="x0, y0, x1, y1 in pixels, half-open; the whole image when none was given",
        examples=[[64.0, 80.0, 960.0, 900.0]],
    )
    score: float = Field(
        description="the model's estimate of the mask's IoU, 0 to 1; 0 for an empty mask"
    )
    confidence: float = Field(
        description="the Dice that the mask's own probabilities expect of it, 0 to 1; 0 for an "
        "empty mask; below 0.94 the warning undecided_mask comes"
    )
    area_px: int = Field(description="pixels inside the mask")
    area_fraction: float = Field(description="area_px over the pixels of the image, 0 to 1")
    png: str | None = Field(
        description="base64 of an 8-bit grey PNG, 0 or 255, with the image's width and height; "
        "null only if shapes leaves it out"
    )
    rle: RunLengthMask | None = Field(description="null only if shapes leaves it out")
    structure: str = Field(
        description="what the mask shows",
        json_schema_extra={"enum": ["lungs", "right_lung", "left_lung", "heart"]},
    )
    side: str | None = Field(
        description="the patient's side, right or left; null for both. Sides are told from a DICOM "
        "header, else the patient's right is taken to be at the picture's left"
    )
    box_index: int = Field(description="place of its box among those sent, from 0")
    polygon: Polygons | None = Field(
        default=None,
        description="Polygons, the largest first: each is its outer ring and then its holes. Each "
        "ring is its corners x, y along the pixels' edges, none moved by more than 1 pixel. Null "
        "if shapes does not ask for it.",
    )
    band: UncertaintyBand | None = Field(default=None, description="null if not asked for")
    probability_png: str | None = Field(
        default=None,
        description="base64 of an 8-bit grey PNG of the probabilities, 255 for 1; null if not "
        "asked for",
    )


class ResponseWarning(Answer):
    """A reason to look twice at this answer."""

    code: str = Field(
        description="stable code",
        examples=["low_score"],
        json_schema_extra={"enum": [str(code) for code in WarningCode]},
    )
    message: str = Field(description="one sentence")
    severity: str = Field(
        description="info (nothing to do), look (a person looks first) or refuse (do not use it)",
        examples=["look"],
        json_schema_extra={"enum": ["info", "look", "refuse"]},
    )
    action: str = Field(
        description="what to do, one sentence", examples=["Look at the mask before it is used."]
    )


class UsedSpacing(Answer):
    """The size of a pixel used for lengths and areas in mm."""

    row_mm: float = Field(description="distance between two rows")
    column_mm: float = Field(description="distance between two columns")
    source: str = Field(
        description="PixelSpacing, ImagerPixelSpacing or NominalScannedPixelSpacing",
        examples=["ImagerPixelSpacing"],
    )
    plane: str = Field(
        description="calibrated, detector (where the patient is magnified) or scanned",
        examples=["detector"],
    )


class StructureMeasurements(Answer):
    """Numbers about one structure; null where it is empty or no size of a pixel is known."""

    area_px: int
    area_mm2: float | None
    height_px: int = Field(description="rows from the highest to the lowest pixel")
    height_mm: float | None
    width_px: int = Field(description="columns from the leftmost to the rightmost pixel")
    width_mm: float | None
    grey_mean: float | None = Field(description="of the decoded grey values, brighter is denser")
    grey_sd: float | None
    grey_p5: float | None
    grey_p50: float | None
    grey_p95: float | None


class CardiothoracicRatio(Answer):
    """The widest heart over the widest inner thorax, along the rows of the upright X-ray."""

    ratio: float = Field(description="heart_width_px over thorax_width_px", examples=[0.47])
    heart_width_px: int = Field(description="columns from the heart's leftmost to its rightmost")
    thorax_width_px: int = Field(
        description="columns from the leftmost to the rightmost pixel of both lungs, whose outer "
        "edges stand for the inner edges of the ribs"
    )
    heart_width_mm: float | None = Field(description="null where no size of a pixel is known")
    thorax_width_mm: float | None
    projection: str | None = Field(
        description="PA, AP (the ratio is not valid) or null, as the DICOM header says",
        examples=["PA"],
    )


class Measurements(Answer):
    """Numbers about the lungs in one box."""

    box_index: int
    spacing: UsedSpacing | None = Field(description="null: no size of a pixel is known, nothing mm")
    lungs: StructureMeasurements
    right_lung: StructureMeasurements | None = Field(
        description="the patient's right; null where the sides cannot be told"
    )
    left_lung: StructureMeasurements | None
    area_ratio: float | None = Field(description="right over left; null where one is empty")
    asymmetry: float | None = Field(
        description="(right - left) / (right + left) of the areas, -1 to 1"
    )
    heart: StructureMeasurements | None = Field(
        default=None, description="null if it was not asked for"
    )
    cardiothoracic: CardiothoracicRatio | None = Field(
        default=None,
        description="null if it was not asked for, or a lung or the heart was not found",
    )


class Latency(Answer):
    """Milliseconds of each stage; `total` includes receiving the upload."""

    decode: float
    preprocess: float
    queue: float
    encode_image: float
    decode_mask: float
    postprocess: float
    render: float
    total: float


def _add_example(schema: dict[str, Any]) -> None:
    """Add an example with the default model, read from the index when OpenAPI is generated."""
    served = default_model()
    schema["example"] = {
        "request_id": "5f0c6f0e3f4d4c0f8f4b6a1f0e9d8c7b",
        "model": {
            "name": served.name,
            "version": served.version,
            "sha256": served.sha256,
            "precision": "int8",
            "weight_bits": 8,
            "device": "cpu",
        },
        "image": {"width": 1024, "height": 1024},
        "convention": "lung_field",
        "threshold": 0.5,
        "masks": [
            {
                "bbox": [64.0, 80.0, 960.0, 900.0],
                "score": 0.97,
                "confidence": 0.98,
                "area_px": 262144,
                "area_fraction": 0.25,
                "png": "iVBORw0KGgo...",
                "rle": {"size": [1024, 1024], "counts": "Pjb73mo0..."},
                "structure": "lungs",
                "side": None,
                "box_index": 0,
            }
        ],
        "overlay_png": "iVBORw0KGgo...",
        "overlay_jpeg": None,
        "view_png": None,
        "latency_ms": {
            "decode": 12.0,
            "preprocess": 3.0,
            "queue": 0.1,
            "encode_image": 70.0,
            "decode_mask": 8.0,
            "postprocess": 9.0,
            "render": 55.0,
            "total": 160.0,
        },
        "warnings": [],
        "measurements": None,
    }


class SegmentAnswer(Answer):
    """Masks of the lungs on one X-ray."""

    request_id: str
    model: ModelIdentity
    image: ImageSize
    convention: str = Field(description="what the masks follow", examples=["lung_field"])
    threshold: float = Field(description="probability from which a pixel is lung", examples=[0.5])
    masks: tuple[SegmentedMask, ...] = Field(
        description="one per box, in the order of the boxes; with lungs=each the right lung of a "
        "box and then the left one"
    )
    overlay_png: str | None = Field(
        description="base64 of an RGB PNG of the X-ray with masks and boxes; null if not asked for"
    )
    overlay_jpeg: str | None = Field(
        description="the same picture as base64 of a JPEG, for overlay=jpeg; else null"
    )
    view_png: str | None = Field(
        description="base64 of the view that was asked for; null if none was"
    )
    latency_ms: Latency
    warnings: tuple[ResponseWarning, ...]
    measurements: tuple[Measurements, ...] | None = Field(
        description="numbers about the lungs of each box; null if not asked for"
    )

    model_config = ConfigDict(frozen=True, json_schema_extra=_add_example)
