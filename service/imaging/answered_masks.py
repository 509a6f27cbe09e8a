"""The masks of an answer, made from the model's: each lung by itself, or without islands.

Warnings judge the model's masks and are made elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.boxes import Box
from model_store.geometry import InputGeometry
from model_store.postprocessing import MaskLogits
from model_store.prediction import MaskPrediction
from model_store.soft_dice import soft_dice_confidence
from service.imaging.islands import without_islands
from service.imaging.lung_sides import lung_sides, nearer_to_second
from service.imaging.packed_masks import HeldMasks
from service.imaging.response_warnings import ImageWarning, WarningCode
from service.imaging.segment_request import LungChoice
from service.imaging.structures import LEFT_LUNG, LUNGS, RIGHT_LUNG

_NO_LUNG_LOGIT = -30.0
_WANTED = {
    LungChoice.EACH: (RIGHT_LUNG, LEFT_LUNG),
    LungChoice.RIGHT: (RIGHT_LUNG,),
    LungChoice.LEFT: (LEFT_LUNG,),
}
_SIDES = {RIGHT_LUNG: "right", LEFT_LUNG: "left"}


@dataclass(frozen=True)
class AnsweredMask:
    """One mask of an answer.

    Attributes:
        box: the requested box.
        mask: (H, W) bool.
        score: predicted IoU of the mask of both lungs with the truth, 0 to 1; 0 for an empty mask.
        confidence: expected Dice by the mask's own probabilities, 0 to 1; 0 for an empty mask.
        structure: what it shows, a name of `structures.STRUCTURES`.
        box_index: index of its box in the request.
    """

    box: Box
    mask: NDArray[np.bool_]
    score: float
    confidence: float
    structure: str = LUNGS
    box_index: int = 0

    @property
    def side(self) -> str | None:
        """The patient's side; None for both."""
        return _SIDES.get(self.structure)


@dataclass(frozen=True)
class MaskOptions:
    """Options for the masks of an answer.

    Attributes:
        lungs: both in one mask, each in its own, or one.
        drops_islands: whether small pieces are removed.
        towards_left: changes of column and row towards the patient's left.
        are_sides_certain: whether the header's orientation can be trusted.
    """

    lungs: LungChoice = LungChoice.BOTH
    drops_islands: bool = False
    towards_left: tuple[int, int] = (1, 0)
    are_sides_certain: bool = True


def answered_masks(
    found: Sequence[MaskPrediction],
    logits: Sequence[MaskLogits],
    geometry: InputGeometry,
    options: MaskOptions,
    *,
    are_packed: bool = False,
) -> tuple[Sequence[AnsweredMask], list[ImageWarning]]:
    """Return the masks of an answer, by box and then right before left, and warnings about them.

    Args:
        found: the model's masks, one for each box.
        logits: the network's output, one for each box.
        geometry: how the X-ray lies in the network's input.
        options: post-processing that the request asks for.
        are_packed: whether masks are stored as bits.
    """
    masks: HeldMasks[AnsweredMask] = HeldMasks(are_packed)
    remarks: list[ImageWarning] = []
    for index, (one, mask_logits) in enumerate(zip(found, logits, strict=True)):
        whole = AnsweredMask(one.box, one.mask, one.score, one.confidence, LUNGS, index)
        if options.drops_islands:
            kept, removed_px = without_islands(one.mask)
            if removed_px:
                whole = dataclasses.replace(whole, mask=kept)
                remarks.append(_islands_removed(removed_px))
        if options.lungs is LungChoice.BOTH:
            masks.append(whole)
            continue
        each = (
            _each_lung(whole, mask_logits, geometry, options) if options.are_sides_certain else []
        )
        if not each:
            remarks.append(_sides_unknown())
        masks.extend(each or [whole])
    return masks, remarks


def clipped_masks(masks: Sequence[AnsweredMask], boxes: Sequence[Box]) -> Iterator[AnsweredMask]:
    """Yield masks cut at boxes: all of them for the first box, then for the second, and so on.

    Args:
        masks: masks of the whole image.
        boxes: in pixels of the masks, edges rounded outwards; none leaves the masks as they are.
    """
    if not boxes:
        yield from masks
    for index, box in enumerate(boxes):
        for one in masks:
            yield _clipped(one, box, index)


def _clipped(one: AnsweredMask, box: Box, index: int) -> AnsweredMask:
    x0, y0, x1, y1 = box
    window = (
        slice(math.floor(y0), math.ceil(y1)),
        slice(math.floor(x0), math.ceil(x1)),
    )
    mask = np.zeros_like(one.mask)
    mask[window] = one.mask[window]
    is_empty = not mask.any()
    return dataclasses.replace(
        one,
        box=box,
        mask=mask,
        score=0.0 if is_empty else one.score,
        confidence=0.0 if is_empty else one.confidence,
        box_index=index,
    )


def _each_lung(
    whole: AnsweredMask, mask_logits: MaskLogits, geometry: InputGeometry, options: MaskOptions
) -> list[AnsweredMask]:
    """Return the requested lungs; none if the sides are unknown."""
    sides = lung_sides(whole.mask, options.towards_left)
    if sides.right is None or sides.left is None:
        return []
    masks = {RIGHT_LUNG: sides.right, LEFT_LUNG: sides.left}
    lungs = []
    for structure in _WANTED[options.lungs]:
        mask = masks[structure]
        is_empty = not mask.any()
        other = masks[LEFT_LUNG if structure == RIGHT_LUNG else RIGHT_LUNG]
        lungs.append(
            AnsweredMask(
                whole.box,
                mask,
                0.0 if is_empty else whole.score,
                0.0 if is_empty else _confidence_without(other, mask, mask_logits.logits, geometry),
                structure,
                whole.box_index,
            )
        )
    return lungs


def _confidence_without(
    other: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    logits: NDArray[np.float32],
    geometry: InputGeometry,
) -> float:
    """Return the confidence of one lung: that of the cells nearer to it than to the other."""
    side = logits.shape[0]
    per_row = geometry.input_size * geometry.height / (side * geometry.resized_height)
    per_column = geometry.input_size * geometry.width / (side * geometry.resized_width)
    rows = np.minimum(((np.arange(side) + 0.5) * per_row).astype(int), geometry.height - 1)
    columns = np.minimum(((np.arange(side) + 0.5) * per_column).astype(int), geometry.width - 1)
    is_other = _is_nearer(other[np.ix_(rows, columns)], mask[np.ix_(rows, columns)])
    return soft_dice_confidence(
        np.where(is_other, np.float32(_NO_LUNG_LOGIT), logits.astype(np.float32)), geometry
    )


def _is_nearer(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not first.any():
        return np.zeros_like(first)
    return nearer_to_second(second, first)


def _islands_removed(removed_px: int) -> ImageWarning:
    return ImageWarning(
        WarningCode.ISLANDS_REMOVED,
        f"Small pieces of the mask were removed, {removed_px} pixels in all.",
    )


def _sides_unknown() -> ImageWarning:
    return ImageWarning(
        WarningCode.SIDES_UNKNOWN,
        "The mask is one piece in the middle of the picture: it cannot be told which lung it is.",
    )
