"""How similar two models' masks of one X-ray are.

Masks are made from logits as for answers, but at most `LONGEST_SIDE` pixels wide and high. The Dice
is equal to three decimals, and an X-ray of any size takes a few milliseconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_store.geometry import InputGeometry
from model_store.mask_resampling import logits_above
from model_store.postprocessing import logit_of
from service.imaging.comparison_data import ComparedMasks, CompareOrder

LONGEST_SIDE = 1024


def compare(order: CompareOrder, logits: NDArray[np.float32]) -> tuple[ComparedMasks, ...]:
    """Compare pairs of masks.

    Args:
        order: size of the X-ray and of each pair's logits.
        logits: logits of each pair, the given mask's first.
    """
    scale = min(1.0, LONGEST_SIDE / max(order.width, order.height))
    width, height = (max(1, round(side * scale)) for side in (order.width, order.height))
    threshold = logit_of(order.threshold)
    found = []
    for pair in order.pairs:
        masks = []
        for size in (pair.given, pair.other):
            square, logits = logits[: size.side**2], logits[size.side**2 :]
            geometry = InputGeometry(width, height, size.input_size)
            masks.append(logits_above(square.reshape(size.side, size.side), geometry, threshold))
        found.append(_compared(*masks))
    return tuple(found)


def _compared(given: NDArray[np.bool_], other: NDArray[np.bool_]) -> ComparedMasks:
    given_px, other_px = int(np.count_nonzero(given)), int(np.count_nonzero(other))
    both_px = int(np.count_nonzero(given & other))
    total_px = given_px + other_px
    return ComparedMasks(
        dice=2 * both_px / total_px if total_px else 1.0,  # both empty: alike
        area_ratio=other_px / given_px if given_px else None,
    )
