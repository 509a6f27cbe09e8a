"""The similarity of two models' probability maps: SSIM of INT8 against FP32.

A mask changes only where a probability crosses the threshold; the map shows every change. Most of a
chest X-ray is certainly lung or certainly not, and there any two models agree. So the mean over the
image is too optimistic; the mean over a band along the outline is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.regression import compute_ssim_and_cs  # the map; SSIMMetric has its mean
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from training.evaluation.surface import REFERENCE_SIDE

BAND_PX = 8
"""Half the width of the band along the outline, in pixels at a longest side of 512."""

_WINDOW, _SIGMA = 11, 1.5  # of Wang et al., IEEE TIP 2004;13(4):600


@dataclass(frozen=True)
class MapSimilarity:
    """SSIM of two probability maps, -1..1, 1 when they are equal.

    Attributes:
        whole: Mean over the image.
        band: Mean over the pixels at most `BAND_PX` from the outline of either mask; where without
            any outline ``whole`` replaces it.
    """

    whole: float
    band: float


def map_similarity(first: NDArray[np.float32], second: NDArray[np.float32]) -> MapSimilarity:
    """Compare two probability maps of one X-ray, both scaled to a longest side of 512 first.

    Args:
        first: Probabilities 0..1, float32 (H, W).
        second: The other model's, float32 (H, W).

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"maps are {first.shape} and {second.shape}; they must be of one shape")
    pair = _scaled(np.stack([first, second]))  # (2, 1, H', W')
    similarity, _ = compute_ssim_and_cs(
        pair[:1], pair[1:], 2, (_WINDOW, _WINDOW), (_SIGMA, _SIGMA), data_range=1.0
    )  # (1, 1, H' - 10, W' - 10): only where the window is inside the image
    values = similarity[0, 0].numpy()
    margin = _WINDOW // 2
    band = outline_band(pair[:, 0].numpy() > 0.5, BAND_PX)[margin:-margin, margin:-margin]
    whole = float(values.mean())
    return MapSimilarity(whole, float(values[band].mean()) if band.any() else whole)


def _scaled(maps: NDArray[np.float32]) -> torch.Tensor:
    """Scale maps (N, H, W) to (N, 1, H', W') with a longest side of 512 and no side below 11."""
    height, width = maps.shape[1:]
    scale = REFERENCE_SIDE / max(height, width)
    size = (max(_WINDOW, round(height * scale)), max(_WINDOW, round(width * scale)))
    tensor = torch.from_numpy(maps).unsqueeze(1)
    return functional.interpolate(
        tensor, size=size, mode="bilinear", antialias=True, align_corners=False
    )


def outline_band(masks: NDArray[np.bool_], half_width_px: float) -> NDArray[np.bool_]:
    """Return the pixels within a distance of any mask's outline.

    Args:
        masks: bool (N, H, W).
        half_width_px: The distance, in pixels.

    Returns:
        bool (H, W); the image's edge does not count as an outline.
    """
    band = np.zeros(masks.shape[1:], dtype=bool)
    for mask in masks:
        if mask.any() and not mask.all():
            inside = ndimage.distance_transform_edt(mask)
            outside = ndimage.distance_transform_edt(~mask)
            band |= np.maximum(inside, outside) <= half_width_px
    return band
