"""What a caller asks about one X-ray, as plain data: HTTP reads it, pictures are made by it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from model_store.boxes import Box
from model_store.conventions import Convention


class AnswerKind(Enum):
    """A form that the answer of `POST /segment` can have; the value is its media type."""

    JSON = "application/json"
    PNG = "image/png"
    DICOM = "application/dicom"


@dataclass(frozen=True)
class SegmentRequest:
    """What is asked about one X-ray, beside the X-ray itself.

    Attributes:
        boxes: boxes in pixels as given, not yet compared with the image; empty = whole image.
        convention: what the masks follow.
        threshold: probability from which a pixel is lung, between 0 and 1.
        wants_overlay: whether a JSON answer holds the overlay picture.
        answer_kind: form of the answer.
    """

    boxes: tuple[Box, ...]
    convention: Convention
    threshold: float
    wants_overlay: bool
    answer_kind: AnswerKind
