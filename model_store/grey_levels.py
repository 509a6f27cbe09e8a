"""Counting and replacing grey values: the two passes over all pixels of an X-ray.

Bytes go through Pillow, 16-bit values through OpenCV. NumPy widens either to 64-bit indices first:
on 2048 x 2048 pixels of 16 bits it counts in 5 and looks up in 5 times OpenCV's time, and holds 8
bytes a pixel meanwhile. All of it is whole numbers, so the results are the same
(`python -m benchmarks.service.opening_passes`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_COUNTED_PX = 1 << 24
"""OpenCV gives counts as float32, which holds each whole number up to this one."""


def grey_histogram(image: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count how often each grey value comes.

    Args:
        image: Grey values, uint8 or uint16, (H, W).

    Returns:
        int64 (256,) or (65536,).

    Raises:
        ValueError: Another dtype or number of dimensions.
    """
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"an X-ray must be uint8 or uint16 with shape (H, W), not {image.dtype} {image.shape}"
        )
    if image.dtype == np.uint8:
        return np.array(Image.fromarray(image).histogram())
    from model_store.opencv import cv2  # 0.1 s, and the network's process meets bytes alone

    counts = np.zeros(65536, np.int64)
    rows = max(1, MOST_COUNTED_PX // image.shape[1])
    for top in range(0, image.shape[0], rows):
        part = np.ascontiguousarray(image[top : top + rows])
        counts += cv2.calcHist([part], [0], None, [65536], [0, 65536]).ravel().astype(np.int64)
    return counts


def replace_levels(image: NDArray[np.integer], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what a table holds for each pixel, (H, W); callers may write to it.

    Args:
        image: Grey values, uint8 or uint16, (H, W).
        table: What becomes of each, (256,) or (65536,).
    """
    if image.dtype == np.uint8:
        return np.array(Image.fromarray(image).point(table.tolist()))
    from model_store.opencv import cv2

    replaced: NDArray[np.uint8] = cv2.LUT(np.ascontiguousarray(image), table)  # type: ignore[assignment]
    return replaced
