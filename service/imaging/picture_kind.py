"""Warnings by the model's quality head, reconciled with those of the rules on masks.

The head judges the picture, and the rules (`shape_checks`) judge its mask. Both use the same
warning codes, and no picture gets two that contradict each other. If both warn, the head's warning
counts: on a crop the rules find a shape unlike lungs, and the head a chest that is cut off. The
mask decides in two cases. Lungs that are darker than the space between them are not inverted. Lungs
with space on all sides are not cut off, although a squeezed X-ray looks so to the head. If the head
gives no warning, those of the rules stay. A model without a head has only the rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.prediction import MaskPrediction
from service.imaging.mask_grid import MaskGrid, grid_of, sampled
from service.imaging.response_warnings import ImageWarning, WarningCode
from service.imaging.shape_checks import are_lungs_dark, shows_whole_lungs

NOT_FRONTAL, CUT_OFF, INVERTED, MIRRORED = "not_frontal_chest", "cut_off", "inverted", "mirrored"
_TURNS: Mapping[str, str] = MappingProxyType(
    {
        "turned_90": "The model sees a chest turned a quarter to the left: turn it to the right.",
        "turned_180": "The model sees a chest upside down: turn it by a half.",
        "turned_270": "The model sees a chest turned a quarter to the right: turn it to the left.",
    }
)
"""Description of each turn; the head counts them counter-clockwise."""
_SENTENCES: Mapping[WarningCode, str] = MappingProxyType(
    {
        WarningCode.NOT_A_FRONTAL_CHEST: "The model sees no single frontal chest X-ray.",
        WarningCode.CUT_OFF_MASK: "The model sees lungs that lie partly outside the picture.",
        WarningCode.INVERTED: "The model sees grey values that are inverted.",
        WarningCode.MIRRORED: "The model sees the heart on the patient's right: the X-ray may be "
        "mirrored, and its sides exchanged.",
    }
)
_NOT_MIRRORED = frozenset({"not_a_frontal_chest", "turned", "cut_off_mask", "one_lung"})


def consistent_labels(
    kind: Collection[str], masks: Sequence[MaskPrediction], pixels: NDArray[Any]
) -> frozenset[str]:
    """Return the labels of the head that the masks do not disprove.

    Args:
        kind: labels of the head, of `model_store.quality_head.QUALITY_LABELS`.
        masks: masks of the lungs.
        pixels: the X-ray, (H, W) uint8 or uint16.
    """
    disproven: set[str] = set()
    if CUT_OFF in kind or INVERTED in kind:
        grids = [grid_of(one.mask) for one in masks if one.mask.any()]
        if any(shows_whole_lungs(grid) for grid in grids):
            disproven.add(CUT_OFF)
        if _are_all_dark(grids, pixels):
            disproven.add(INVERTED)
    return frozenset(kind) - disproven


def kind_warnings(kind: Collection[str], by_rules: Collection[str] = ()) -> list[ImageWarning]:
    """Return warnings about a picture that do not contradict each other.

    A picture that is not a frontal chest gets no warnings about orientation, grey values or cut
    edges. Half a chest need not show its heart, so only a whole, upright chest is called mirrored.

    Args:
        kind: labels of the head, as `consistent_labels` returns them.
        by_rules: codes of the warnings by rules on its masks.
    """
    if NOT_FRONTAL in kind:
        return [_remark(WarningCode.NOT_A_FRONTAL_CHEST)]
    turns = [sentence for turn, sentence in _TURNS.items() if turn in kind]
    found = [_remark(WarningCode.TURNED, sentence) for sentence in turns[:1]]
    if CUT_OFF in kind:
        found.append(_remark(WarningCode.CUT_OFF_MASK))
    if MIRRORED in kind and not found and _NOT_MIRRORED.isdisjoint(by_rules):
        found.append(_remark(WarningCode.MIRRORED))
    if INVERTED in kind:
        found.append(_remark(WarningCode.INVERTED))
    return found


def without_contradictions(
    found: Sequence[ImageWarning], kind: Collection[str]
) -> list[ImageWarning]:
    """Return the warnings about a mask that do not contradict the head's labels.

    Args:
        found: warnings by rules on the mask.
        kind: labels of the head, as `consistent_labels` returns them.
    """
    said = {str(one.code) for one in kind_warnings(kind)}
    overruled = set(said)
    for code, others in _OVERRULED.items():
        if code in said:
            overruled |= others
    return [one for one in found if str(one.code) not in overruled]


def is_turned(kind: Collection[str]) -> bool:
    """Return whether the head finds the X-ray on a side or upside down."""
    return not _TURNS.keys().isdisjoint(kind)


_OVERRULED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        str(WarningCode.NOT_A_FRONTAL_CHEST): frozenset({"turned", "cut_off_mask", "inverted"}),
        str(WarningCode.TURNED): frozenset({"not_a_frontal_chest", "too_many_lungs"}),
        str(WarningCode.CUT_OFF_MASK): frozenset({"not_a_frontal_chest", "turned"}),
    }
)
"""Codes of rules that each code of the head excludes."""


def _remark(code: WarningCode, sentence: str = "") -> ImageWarning:
    return ImageWarning(code, sentence or _SENTENCES[code])


def _are_all_dark(grids: Sequence[MaskGrid], pixels: NDArray[Any]) -> bool:
    grey = sampled(pixels)
    return bool(grids) and all(are_lungs_dark(grid, np.asarray(grey)) for grid in grids)
