"""Warnings about changed or unsuitable pictures, with stable codes.

A warning never stops the decoding: it comes with the pixels and says why to look again. Released
codes are never renamed. Messages have no file name, no path and no DICOM value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PictureWarningCode(StrEnum):
    """Every code of a decoding warning."""

    COLOUR_TO_GREY = "colour_to_grey"
    """The image had real colour (its channels differed); luma was used."""
    ALPHA_COMPOSITED = "alpha_composited"
    """Some pixels were transparent; they were laid over black."""
    ORIENTATION_APPLIED = "orientation_applied"
    """An orientation tag was applied; boxes and masks refer to the turned image."""
    INVERTED_TO_MONOCHROME2 = "inverted_to_monochrome2"
    """White meant zero in the file; the grey values were inverted (dense tissue is bright)."""
    CONTRADICTORY_PRESENTATION = "contradictory_presentation"
    """The DICOM header contradicts itself on whether white means zero."""
    WINDOW_APPLIED = "window_applied"
    """The header's window has the anatomy, and many values are far outside it: these were
    clipped."""
    BITS_BEYOND_STORED = "bits_beyond_stored"
    """Much of the DICOM image has bits set that its header declares unused; they were dropped."""
    LOSSY_PRECISION = "lossy_precision"
    """The DICOM image says that it was compressed with loss."""
    NOT_FRONTAL_VIEW = "not_frontal_view"
    """The DICOM header names a view that is not frontal; the model was trained on frontal ones."""
    NOT_A_CHEST = "not_a_chest"
    """The DICOM header names a body part other than the chest."""
    FOR_PROCESSING_IMAGE = "for_processing_image"
    """A raw detector image, which looks unlike what radiologists (and the model) see."""


@dataclass(frozen=True)
class PictureWarning:
    """One remark on a picture.

    Attributes:
        code: what kind of remark, stable.
        message: one sentence for a person.
    """

    code: PictureWarningCode
    message: str
