"""The warnings of an answer, and the closed set of their codes.

A warning never stops a request: the mask is still given, with the reason to look again. Clients
branch on the codes and the metric `lungseg_warnings_total{code}` counts them, so codes are never
renamed once released. Messages hold no file name, no path and no DICOM value.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WarningCode(StrEnum):
    """Every code a warning can have."""

    COLOUR_TO_GREY = "colour_to_grey"
    """The image had real colour (its channels differed); luma was used."""
    ALPHA_COMPOSITED = "alpha_composited"
    """Some pixels were transparent; they were laid over black."""
    ORIENTATION_APPLIED = "orientation_applied"
    """The file asked to be turned or mirrored; boxes and masks refer to the turned image."""
    INVERTED_TO_MONOCHROME2 = "inverted_to_monochrome2"
    """White meant zero in the file; the grey values were inverted (dense tissue is bright)."""
    LOSSY_PRECISION = "lossy_precision"
    """The DICOM image says that it was compressed with loss."""
    NOT_FRONTAL_VIEW = "not_frontal_view"
    """The DICOM header names a view that is not frontal; the model was trained on frontal ones."""
    NOT_A_CHEST = "not_a_chest"
    """The DICOM header names a body part other than the chest."""
    FOR_PROCESSING_IMAGE = "for_processing_image"
    """A raw detector image, which looks unlike what radiologists (and the model) see."""
    CONTRADICTORY_PRESENTATION = "contradictory_presentation"
    """The DICOM header contradicts itself on the display of its grey values."""
    WINDOW_APPLIED = "window_applied"
    """The header's window has the anatomy; values far outside it were clipped."""
    ORIENTATION_DOUBTFUL = "orientation_doubtful"
    """The DICOM image was turned by its header, and the model is then unsure."""
    BITS_BEYOND_STORED = "bits_beyond_stored"
    """Pixels use bits that the DICOM header declares unused; these were dropped."""
    CONSTANT_IMAGE = "constant_image"
    """(Nearly) every pixel has the same grey value."""
    SATURATED_IMAGE = "saturated_image"
    """Much of the image is burnt out to the brightest value."""
    EMPTY_MASK = "empty_mask"
    """No pixel was found."""
    MASK_MISSES_BOX = "mask_misses_box"
    """No pixel of the mask lies in its box."""
    MASK_LEAVES_BOX = "mask_leaves_box"
    """A large part of the mask lies outside its box."""
    IMPLAUSIBLY_SMALL_MASK = "implausibly_small_mask"
    """The mask fills less of its box than lungs do."""
    IMPLAUSIBLY_LARGE_MASK = "implausibly_large_mask"
    """The mask fills more of its box than lungs do."""
    NARROW_MASK = "narrow_mask"
    """The mask leaves much of its box's width empty; a lung may be missing."""
    FRAGMENTED_MASK = "fragmented_mask"
    """The mask is in pieces, as when the model is unsure whether a lung is meant."""
    UNDECIDED_MASK = "undecided_mask"
    """Much of the mask has probabilities near one half: its border is a guess."""
    LOW_SCORE = "low_score"
    """The model itself expects the mask to be poor."""
    CUT_OFF_MASK = "cut_off_mask"
    """The lungs are not wholly in the picture, by the quality head or the mask's outline."""
    ONE_LUNG = "one_lung"
    """The mask is one piece."""
    TOO_MANY_LUNGS = "too_many_lungs"
    """The mask has three or more parts of the size of a lung."""
    MASK_BEYOND_THORAX = "mask_beyond_thorax"
    """Much of the mask is where the picture shows no body."""
    NOT_A_FRONTAL_CHEST = "not_a_frontal_chest"
    """The picture, or the mask's shape, is not that of one whole frontal chest X-ray."""
    TURNED = "turned"
    """The X-ray is turned or upside down, by the quality head or the mask's shape."""
    MIRRORED = "mirrored"
    """Left and right of the X-ray look exchanged: the heart is on the patient's right."""
    ISLANDS_REMOVED = "islands_removed"
    """Small pieces of the mask were removed, because the caller asked for that."""
    SIDES_UNKNOWN = "sides_unknown"
    """The mask could not be divided into the patient's lungs."""
    INVERTED = "inverted"
    """The grey values are inverted: the lungs are brighter than the space between them."""
    CARDIOTHORACIC_RATIO_ON_AP = "cardiothoracic_ratio_on_ap"
    """The cardiothoracic ratio of an AP X-ray, on which the heart is magnified."""
    CARDIOTHORACIC_VIEW_UNKNOWN = "cardiothoracic_view_unknown"
    """The cardiothoracic ratio of an X-ray that does not say whether it is PA or AP."""


@dataclass(frozen=True)
class ImageWarning:
    """A warning about an answer.

    Attributes:
        code: a member of `WarningCode`, stable.
        message: one sentence for a person.
    """

    code: str
    message: str
