"""All warnings about the picture and the masks of one answer, by the quality head and by rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from model_store.prediction import MaskPrediction
from service.imaging.mask_checks import check_mask
from service.imaging.picture_kind import consistent_labels, kind_warnings, without_contradictions
from service.imaging.response_warnings import ImageWarning


@dataclass(frozen=True)
class AnswerRemarks:
    """The warnings of one answer.

    Attributes:
        picture: warnings about the picture, by the quality head.
        masks: warnings about each mask, in order.
    """

    picture: tuple[ImageWarning, ...]
    masks: tuple[tuple[ImageWarning, ...], ...]

    @property
    def every(self) -> tuple[ImageWarning, ...]:
        """All warnings, those about the picture first."""
        return self.picture + tuple(one for found in self.masks for one in found)


def check_answer(
    masks: Sequence[MaskPrediction],
    pixels: NDArray[Any],
    kind: Collection[str] = (),
    *,
    is_whole_image: bool = False,
) -> AnswerRemarks:
    """Return warnings about masks of the lungs and about their picture.

    Args:
        masks: the model's masks.
        pixels: the X-ray, (H, W) uint8 or uint16.
        kind: labels of the model's quality head (`QualityHeadFile.labels_for`).
        is_whole_image: whether the caller gave no box.
    """
    kind = consistent_labels(kind, masks, pixels)
    by_mask = [
        tuple(without_contradictions(check_mask(one, pixels, is_whole_image=is_whole_image), kind))
        for one in masks
    ]
    by_rules = {str(one.code) for found in by_mask for one in found}
    return AnswerRemarks(tuple(kind_warnings(kind, by_rules)), tuple(by_mask))
