"""Convert between a caller's pixels and the upright X-ray for the model.

A DICOM header can say that its pixels are stored turned or mirrored. Boxes and masks of DICOM refer
to the pixels as stored, because archives and viewers show them over these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from model_store.boxes import Box
from model_store.conventions import Convention
from model_store.pictures.picture_reading import Picture
from model_store.prediction import MaskPrediction, PredictionRequest
from service.imaging.answered_masks import AnsweredMask
from service.imaging.image_scale import ImageScale
from service.imaging.mask_checks import MINIMUM_CONFIDENCE
from service.imaging.picture_kind import MIRRORED, is_turned
from service.imaging.response_warnings import ImageWarning, WarningCode

_Mask = TypeVar("_Mask", MaskPrediction, AnsweredMask)


def upright_scale(scale: ImageScale, picture: Picture) -> ImageScale:
    """Return how pixels of the upright X-ray relate to the patient.

    Args:
        scale: how stored pixels relate to the patient.
        picture: the X-ray.
    """
    if picture.orientation.is_upright:
        return scale
    spacing = scale.spacing
    if spacing is not None and picture.orientation.is_transposed:
        spacing = replace(spacing, texts=spacing.texts[::-1])
    return ImageScale(spacing, projection=scale.projection)


def upright_request(
    picture: Picture, boxes: Sequence[Box], convention: Convention, threshold: float
) -> PredictionRequest:
    """Return the model's request for a picture.

    Args:
        picture: the X-ray.
        boxes: boxes in the caller's pixels; `validate_box` checks them there, so that its messages
            have the caller's sizes.
        convention: convention of the masks.
        threshold: least probability of a mask pixel.
    """
    width, height = picture.width, picture.height
    upright = tuple(picture.orientation.apply_to_box(box, width, height) for box in boxes)
    return PredictionRequest(picture.upright, upright, convention, threshold)


def as_stored(found: _Mask, picture: Picture) -> _Mask:
    """Turn a mask of the upright X-ray to the caller's pixels."""
    orientation = picture.orientation
    if orientation.is_upright:
        return found
    box = orientation.invert_box(found.box, picture.width, picture.height)
    return replace(found, box=box, mask=orientation.invert(found.mask))


def is_turn_doubtful(
    picture: Picture, found: Sequence[MaskPrediction], kind: Collection[str] = ()
) -> bool:
    """Return whether the header's orientation of an X-ray is probably wrong.

    Some modalities write the same PatientOrientation into every file. Of 178 X-rays of `val` the
    confidence of version 5 was below the limit for none upright, for 178 turned by a quarter and
    for 150 turned upside down. It was below for no mirrored X-ray; the quality head finds those.

    Args:
        picture: the X-ray.
        found: the model's result after turning.
        kind: labels of the quality head after turning.
    """
    if picture.orientation.is_upright:
        return False
    is_seen = is_turned(kind) or MIRRORED in kind
    return is_seen or any(not one.confidence >= MINIMUM_CONFIDENCE for one in found)


def doubtful_turn() -> ImageWarning:
    """Return the warning about such an X-ray."""
    return ImageWarning(
        WarningCode.ORIENTATION_DOUBTFUL,
        "The X-ray was turned as its DICOM header says, and the model is far less sure of its mask "
        "than it is of upright ones: the header may be wrong. No sides are given.",
    )
