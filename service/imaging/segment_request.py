"""A caller's request about one X-ray, as plain data: made from HTTP fields, read by imaging."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from model_store.boxes import Box
from model_store.conventions import Convention
from model_store.structures import HEART, LUNGS, STRUCTURES, Structure

DEFAULT_THRESHOLD = 0.5
"""Probability from which a pixel is lung, where nothing else is asked for."""


class AnswerKind(Enum):
    """A form that the answer of `POST /segment` can have; the value is its media type."""

    JSON = "application/json"
    PNG = "image/png"
    DICOM = "application/dicom"
    DICOM_OBJECTS = "multipart/related"


class DicomObject(Enum):
    """An object that an answer of several DICOM objects can hold; the value is its short name."""

    SEGMENTATION = "seg"
    SECONDARY_CAPTURE = "sc"
    REPORT = "sr"
    PRESENTATION_STATE = "gsps"


DEFAULT_OBJECTS = (DicomObject.SEGMENTATION, DicomObject.SECONDARY_CAPTURE, DicomObject.REPORT)
"""What an answer of several objects holds when it is not said."""


class View(Enum):
    """A picture to look at."""

    OVERLAY = "overlay"
    OUTLINE = "outline"
    ISOLATED = "isolated"
    ENHANCED = "enhanced"


class MaskShape(Enum):
    """A form in which a JSON answer holds a mask, or what is known of its border."""

    PNG = "png"
    RLE = "rle"
    POLYGON = "polygon"
    BAND = "band"
    PROBABILITY = "probability"


UNCERTAINTY_SHAPES = frozenset({MaskShape.BAND, MaskShape.PROBABILITY})
"""Shapes of what the network says, and so of whole masks alone."""


class LungChoice(Enum):
    """Which lungs the masks of an answer show."""

    BOTH = "both"
    EACH = "each"
    RIGHT = "right"
    LEFT = "left"


class OverlayFormat(Enum):
    """How the overlay of a JSON answer is written; the value is the format's name."""

    PNG = "png"
    JPEG = "jpeg"


@dataclass(frozen=True)
class SegmentRequest:
    """A request about one X-ray, apart from the X-ray itself.

    Attributes:
        boxes: boxes in pixels as given, not yet compared with the image; empty = whole image.
        convention: what the masks follow.
        threshold: probability from which a pixel is lung, between 0 and 1.
        wants_overlay: whether a JSON answer holds the overlay picture.
        objects: what an answer of several DICOM objects holds, in this order.
        lungs: both lungs in one mask, each in its own, or one of them.
        drops_islands: whether small pieces of a mask are removed.
        wants_measurements: whether a JSON answer holds measurements.
        view: a picture to look at, beside masks or in their place; None for none.
        wants_legend: whether a margin of that picture says what it shows.
        clips_to_boxes: whether the lungs of the whole image are cut at the boxes, in place of
            segmenting the lungs that the boxes mean.
        overlay_format: how the overlay is written, where one is wanted.
        structures: what the masks show, each once, the lungs before the heart.
        measures_heart: whether measurements hold the heart and the cardiothoracic ratio.
        shapes: forms in which a JSON answer holds each mask.
        model: which of several models is to answer, `name/version` or a name; None for the first.
    """

    boxes: tuple[Box, ...]
    convention: Convention
    threshold: float
    wants_overlay: bool
    answer_kind: AnswerKind
    objects: tuple[DicomObject, ...] = DEFAULT_OBJECTS
    lungs: LungChoice = LungChoice.BOTH
    drops_islands: bool = False
    wants_measurements: bool = False
    view: View | None = None
    wants_legend: bool = False
    clips_to_boxes: bool = False
    overlay_format: OverlayFormat = OverlayFormat.PNG
    structures: tuple[Structure, ...] = (LUNGS,)
    measures_heart: bool = False
    shapes: frozenset[MaskShape] = frozenset({MaskShape.PNG, MaskShape.RLE})
    model: str | None = None

    @property
    def network_structures(self) -> tuple[Structure, ...]:
        """What the network is asked for: the masks, and what is measured beside them."""
        measured = (LUNGS,) * self.wants_measurements + (HEART,) * self.wants_ratio
        wanted = {*self.structures, *measured, *((LUNGS,) if self.wants_ratio else ())}
        return tuple(one for one in STRUCTURES if one in wanted)

    @property
    def wants_ratio(self) -> bool:
        """Whether the answer holds the cardiothoracic ratio."""
        has_both = set(self.structures) >= {LUNGS, HEART}
        has_report = (
            self.answer_kind is AnswerKind.DICOM_OBJECTS and DicomObject.REPORT in self.objects
        )
        return self.measures_heart or (has_both and (self.wants_measurements or has_report))

    @property
    def overlay_in_answer(self) -> OverlayFormat | None:
        """Format of the overlay that the answer holds; None for none."""
        has_overlay = self.wants_overlay and self.answer_kind is AnswerKind.JSON
        return self.overlay_format if has_overlay else None

    @property
    def prompts(self) -> tuple[Box, ...]:
        """Boxes that prompt the model; none means the whole image."""
        return () if self.clips_to_boxes else self.boxes

    @property
    def needs_grey_dicom(self) -> bool:
        """Whether the answer says how the grey values of a DICOM image are shown."""
        is_listed = DicomObject.PRESENTATION_STATE in self.objects
        return self.answer_kind is AnswerKind.DICOM_OBJECTS and is_listed

    @property
    def needs_dicom(self) -> bool:
        """Whether the answer refers to a DICOM image."""
        return self.answer_kind in (AnswerKind.DICOM, AnswerKind.DICOM_OBJECTS)
