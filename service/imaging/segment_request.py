"""A caller's request for one X-ray, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from model_store.boxes import Box
from model_store.conventions import Convention
from model_store.structures import HEART, LUNGS, STRUCTURES, Structure

DEFAULT_THRESHOLD = 0.5
"""Default least probability of a lung pixel."""


class AnswerKind(Enum):
    """The forms of an answer of `POST /segment`; the value is the media type."""

    JSON = "application/json"
    PNG = "image/png"
    DICOM = "application/dicom"
    DICOM_OBJECTS = "multipart/related"


class DicomObject(Enum):
    """The objects in an answer of several DICOM objects; the value is the short name."""

    SEGMENTATION = "seg"
    SECONDARY_CAPTURE = "sc"
    REPORT = "sr"
    PRESENTATION_STATE = "gsps"


DEFAULT_OBJECTS = (DicomObject.SEGMENTATION, DicomObject.SECONDARY_CAPTURE, DicomObject.REPORT)
"""The default objects of an answer of several objects."""


class View(Enum):
    """The pictures for people."""

    OVERLAY = "overlay"
    OUTLINE = "outline"
    ISOLATED = "isolated"
    ENHANCED = "enhanced"


class MaskShape(Enum):
    """The forms of a mask or its border in a JSON answer."""

    PNG = "png"
    RLE = "rle"
    POLYGON = "polygon"
    BAND = "band"
    PROBABILITY = "probability"


UNCERTAINTY_SHAPES = frozenset({MaskShape.BAND, MaskShape.PROBABILITY})
"""Shapes made from the network's output, and so of whole masks only."""


class LungChoice(Enum):
    """The lungs in the masks of an answer."""

    BOTH = "both"
    EACH = "each"
    RIGHT = "right"
    LEFT = "left"


class OverlayFormat(Enum):
    """The file formats of the overlay in a JSON answer; the value is the format's name."""

    PNG = "png"
    JPEG = "jpeg"


@dataclass(frozen=True)
class SegmentRequest:
    """A request for one X-ray, without the X-ray itself.

    Attributes:
        boxes: boxes in pixels as given, not yet compared with the image; empty = whole image.
        convention: convention of the masks.
        threshold: least probability of a lung pixel, between 0 and 1.
        wants_overlay: whether a JSON answer has the overlay picture.
        objects: objects of an answer of several DICOM objects, in this order.
        lungs: both lungs in one mask, each in its own, or one of them.
        drops_islands: whether small pieces of a mask are removed.
        wants_measurements: whether a JSON answer has measurements.
        view: picture for people, beside masks or instead of them; None for none.
        wants_legend: whether that picture has a margin with a legend.
        clips_to_boxes: whether to segment the whole image and cut the lungs at the boxes, instead
            of segmenting the lungs that the boxes select.
        overlay_format: file format of the overlay.
        structures: what the masks show, each once, the lungs before the heart.
        measures_heart: whether measurements include the heart and the cardiothoracic ratio.
        shapes: forms of each mask in a JSON answer.
        model: the model to use, `name/version` or a name; None for the first.
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
        """Structures for the network: those of the masks, and those to measure."""
        measured = (LUNGS,) * self.wants_measurements + (HEART,) * self.wants_ratio
        wanted = {*self.structures, *measured, *((LUNGS,) if self.wants_ratio else ())}
        return tuple(one for one in STRUCTURES if one in wanted)

    @property
    def wants_ratio(self) -> bool:
        """Whether the answer has the cardiothoracic ratio."""
        has_both = set(self.structures) >= {LUNGS, HEART}
        has_report = (
            self.answer_kind is AnswerKind.DICOM_OBJECTS and DicomObject.REPORT in self.objects
        )
        return self.measures_heart or (has_both and (self.wants_measurements or has_report))

    @property
    def overlay_in_answer(self) -> OverlayFormat | None:
        """Format of the overlay in the answer; None for none."""
        has_overlay = self.wants_overlay and self.answer_kind is AnswerKind.JSON
        return self.overlay_format if has_overlay else None

    @property
    def prompts(self) -> tuple[Box, ...]:
        """Boxes that prompt the model; none means the whole image."""
        return () if self.clips_to_boxes else self.boxes

    @property
    def needs_grey_dicom(self) -> bool:
        """Whether the answer repeats the display of a DICOM image's grey values."""
        is_listed = DicomObject.PRESENTATION_STATE in self.objects
        return self.answer_kind is AnswerKind.DICOM_OBJECTS and is_listed

    @property
    def needs_dicom(self) -> bool:
        """Whether the answer refers to a DICOM image."""
        return self.answer_kind in (AnswerKind.DICOM, AnswerKind.DICOM_OBJECTS)
