"""Counting and replacing grey values: the two passes over all pixels of an X-ray.

Bytes go through Pillow, 16-bit values through OpenCV. NumPy first widens both to 64-bit indices. On
2048 x 2048 pixels of 16 bits it takes 5 times as long as OpenCV to count and to look up, and needs
8 bytes a pixel. Results are equal, because all values are integers
(`python -m benchmarks.service.opening_passes`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_COUNTED_PX = 1 << 24
"""OpenCV gives counts as float32, which is exact for integers up to this one."""


def grey_histogram(image: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count the pixels of each grey value.

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
    from model_store.opencv import cv2  # an import of 0.1 s, not needed for bytes

    counts = np.zeros(65536, np.int64)
    rows = max(1, MOST_COUNTED_PX // image.shape[1])
    for top in range(0, image.shape[0], rows):
        part = np.ascontiguousarray(image[top : top + rows])
        counts += cv2.calcHist([part], [0], None, [65536], [0, 65536]).ravel().astype(np.int64)
    return counts


def replace_levels(image: NDArray[np.integer], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the table's value for each pixel, (H, W); callers may write to the result.

    Args:
        image: Grey values, uint8 or uint16, (H, W).
        table: New value of each grey value, (256,) or (65536,).
    """
    if image.dtype == np.uint8:
        return np.array(Image.fromarray(image).point(table.tolist()))
    from model_store.opencv import cv2

    replaced: NDArray[np.uint8] = cv2.LUT(np.ascontiguousarray(image), table)  # type: ignore[assignment]
    return replaced
