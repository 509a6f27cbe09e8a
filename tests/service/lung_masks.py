"""Lungs made of smooth curves, like enough to human masks that no shape check speaks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_store.opencv import cv2
from service.imaging.lung_shapes import CELLS, load_lung_shapes


def lung_mask(side: int) -> NDArray[np.bool_]:
    """Return both lungs in a square picture with a margin around, bool (side, side)."""
    mean = load_lung_shapes().mean.reshape(CELLS, CELLS).astype(np.float32)
    width, height = round(0.75 * side), round(0.6 * side)
    scaled = cv2.resize(mean, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros((side, side), bool)
    left, top = (side - width) // 2, (side - height) // 2
    mask[top : top + height, left : left + width] = scaled > 0.5
    return mask


def xray_of(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return grey values with dark lungs and a little noise, uint8 (H, W)."""
    grey = np.where(mask, 70.0, 180.0) + np.random.default_rng(0).normal(0, 8, mask.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
