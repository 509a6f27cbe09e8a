"""The heart as a separate structure: its masks in an answer, and their warnings.

A heart follows no lung convention, and there are no human heart masks to compare it with. Warnings
use the model's own score and confidence, and the number of pieces. The quality head warns about the
picture, as for lungs.
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
"""Least soft Dice confidence. Of the hearts of 178 X-rays of `val` one is below, a child's; of 80
portable X-rays none. The median is 0.71 for X-rays turned by a quarter, and 0.88 by a half."""
MINIMUM_MAIN_PIECE = 0.9
"""Least share of the mask in its largest piece, which 174 of 178 X-rays of `val` reach."""


def heart_masks(found: Sequence[MaskPrediction], *, drops_islands: bool) -> Iterator[AnsweredMask]:
    """Yield the hearts of an answer, one for each box.

    Args:
        found: the model's masks, one for each box.
        drops_islands: whether small pieces are removed.
    """
    for index, one in enumerate(found):
        mask = without_islands(one.mask)[0] if drops_islands else one.mask
        yield AnsweredMask(one.box, mask, one.score, one.confidence, HEART, index)


def check_heart(found: MaskPrediction) -> list[ImageWarning]:
    """Return warnings about one heart.

    Args:
        found: the mask with its score and confidence.
    """
    if not found.mask.any():
        return [ImageWarning(WarningCode.EMPTY_MASK, "No heart was found: the mask is empty.")]
    remarks = []
    shares = grid_of(found.mask).shares
    if shares.size and shares.max() < MINIMUM_MAIN_PIECE:
        remarks.append(
            ImageWarning(WarningCode.FRAGMENTED_MASK, "The mask of the heart falls into pieces.")
        )
    # Both comparisons are also true for NaN.
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
    """Return warnings about a cardiothoracic ratio; none on a PA X-ray.

    Args:
        projection: PA or AP; None if there is no header or it does not say.
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
