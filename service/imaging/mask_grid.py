"""A coarse grid of a mask, on which its shape and its pieces are quick to find.

Masks come from logits of about 96 x 96 cells, so about 128 samples along the longer side keep all
of their shape. Finding the pieces is much faster on the grid than at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model_store.opencv import cv2

GRID_SIDE = 128
"""Approximate number of samples along the longer side."""
LARGE_PIECE_SHARE = 0.10
"""Least share of the mask of a piece that counts as a lung. All 178 human masks of `val`, and all
masks of the model in either convention, have exactly two such pieces."""

_Value = TypeVar("_Value", bound=np.generic)
_FOUR_NEIGHBOURS = 4


@dataclass(frozen=True)
class MaskGrid:
    """A mask's samples and their connected pieces.

    Attributes:
        mask: the samples, bool (h, w).
        step: pixels of the mask between two samples.
        labels: number of the piece of each sample, 0 outside the mask, int32 (h, w).
        shares: share of the mask that each piece holds, piece 1 first, (n,).
        centres: mean column and row of each piece, in samples, (n, 2).
    """

    mask: NDArray[np.bool_]
    step: int
    labels: NDArray[np.int32]
    shares: NDArray[np.float64]
    centres: NDArray[np.float64]

    @property
    def large_pieces(self) -> tuple[int, ...]:
        """Numbers of the pieces that count as lungs, the largest first."""
        order = np.argsort(-self.shares, kind="stable")
        return tuple(int(n) + 1 for n in order if self.shares[n] >= LARGE_PIECE_SHARE)


def sampling_step(shape: tuple[int, ...]) -> int:
    """Return the number of pixels of an array (H, W) between two samples of its grid."""
    return max(1, round(max(shape) / GRID_SIDE))


def sampled(pixels: NDArray[_Value]) -> NDArray[_Value]:
    """Return the samples of an array (H, W), each from the middle of its step."""
    step = sampling_step(pixels.shape)
    return np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])


def grid_of(mask: NDArray[np.bool_]) -> MaskGrid:
    """Return the samples and pieces of a mask.

    Args:
        mask: (H, W) bool.
    """
    samples = sampled(mask)
    _, labels, statistics, centres = cv2.connectedComponentsWithStats(
        samples.view(np.uint8), connectivity=_FOUR_NEIGHBOURS, ltype=cv2.CV_32S
    )
    areas = statistics[1:, cv2.CC_STAT_AREA].astype(np.float64)
    shares = areas / max(1.0, areas.sum())
    numbered = np.asarray(labels).astype(np.int32, copy=False)
    middles = np.asarray(centres[1:]).astype(np.float64, copy=False)
    return MaskGrid(samples, sampling_step(mask.shape), numbered, shares, middles)
