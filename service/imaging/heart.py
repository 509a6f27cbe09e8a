"""The heart as a structure of its own: its masks in an answer, and the warnings on them.

A heart follows no lung convention, and there are no human heart masks to compare it with. Warnings
come from the model's own score and confidence, and from the number of pieces. The quality head
warns of the picture, as for lungs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from model_store.prediction import MaskPrediction
from service.imaging.answered_masks import AnsweredMask
from service.imaging.islands import without_islands
from service.imaging.mask_checks import MINIMUM_SCORE
from service.imaging.mask_grid import grid_of
from service.imaging.response_warnings import ImageWarning, WarningCode
from service.imaging.structures import HEART

MINIMUM_HEART_CONFIDENCE = 0.9
"""Soft Dice confidence. Of the hearts of 178 X-rays of `val` one is below, a child's; of 80
portable ones none. Turned by a quarter, X-rays have 0.71 in the median, by a half 0.88."""
MINIMUM_MAIN_PIECE = 0.9
"""Share of the mask that its largest piece holds at the least: of `val` 174 of 178 hold as much."""


def heart_masks(found: Sequence[MaskPrediction], *, drops_islands: bool) -> Iterator[AnsweredMask]:
    """Yield the hearts of an answer, one for each box.

    Args:
        found: what the model found, one per box.
        drops_islands: whether small pieces are removed.
    """
    for index, one in enumerate(found):
        mask = without_islands(one.mask)[0] if drops_islands else one.mask
        yield AnsweredMask(one.box, mask, one.score, one.confidence, HEART, index)


def check_heart(found: MaskPrediction) -> list[ImageWarning]:
    """Return what is remarked on one heart.

    Args:
        found: the mask and what the model thinks of it.
    """
    if not found.mask.any():
        return [ImageWarning(WarningCode.EMPTY_MASK, "No heart was found: the mask is empty.")]
    remarks = []
    shares = grid_of(found.mask).shares
    if shares.size and shares.max() < MINIMUM_MAIN_PIECE:
        remarks.append(
            ImageWarning(WarningCode.FRAGMENTED_MASK, "The mask of the heart falls into pieces.")
        )
    # Both also true of what is not a number.
    if not found.confidence >= MINIMUM_HEART_CONFIDENCE:
        remarks.append(
            ImageWarning(
                WarningCode.UNDECIDED_MASK,
                "The model is unsure where much of the heart's border runs.",
            )
        )
    if not found.score >= MINIMUM_SCORE:
        remarks.append(
            ImageWarning(
                WarningCode.LOW_SCORE,
                f"The model expects a poor mask of the heart (score below {MINIMUM_SCORE}).",
            )
        )
    return remarks


def ratio_remarks(projection: str | None) -> list[ImageWarning]:
    """Return what is to be said of a cardiothoracic ratio; nothing on a PA X-ray.

    Args:
        projection: PA or AP; None where the header does not say, or there is none.
    """
    if projection == "PA":
        return []
    if projection == "AP":
        return [
            ImageWarning(
                WarningCode.CARDIOTHORACIC_RATIO_ON_AP,
                "The X-ray is AP by its header: the heart lies away from the detector and is "
                "magnified, so the cardiothoracic ratio is not valid.",
            )
        ]
    return [
        ImageWarning(
            WarningCode.CARDIOTHORACIC_VIEW_UNKNOWN,
            "Nothing says whether the X-ray is PA or AP; the cardiothoracic ratio is valid on PA "
            "X-rays alone.",
        )
    ]
