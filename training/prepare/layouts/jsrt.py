"""JSRT: raw 2048 x 2048 X-rays of 12 bits, and lung masks of the SCR database.

``JPCLN001.IMG`` (with nodule) and ``JPCNN001.IMG`` (without) consist of big-endian 16-bit words of
0 to 4095, high for dark. SCR's masks are 1024 x 1024 GIFs, ``fold1/masks/left lung`` for odd and
``fold2`` for even X-rays. One X-ray per patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.prepare.pair import (
    SCALED_MASK,
    Found,
    MaskFiles,
    RawPair,
    folders_named,
    found,
    image_files,
    matched_with_both_lungs,
)
from training.prepare.pixels import PixelError

SOURCE = "jsrt"
SIDE = 2048
LARGEST_GREY = 4095
SPACING_MM = 0.175


@dataclass(frozen=True)
class JsrtXray:
    """A headerless X-ray."""

    path: Path

    def read(self) -> NDArray[np.integer]:
        """Return grey values with bone bright, uint16 (2048, 2048)."""
        try:
            words = np.fromfile(self.path, dtype=">u2")
        except OSError as error:
            raise PixelError(f"cannot be read: {error.strerror}") from error
        if self.path.stat().st_size != 2 * SIDE * SIDE:
            raise PixelError(
                f"has {self.path.stat().st_size} bytes, not the {2 * SIDE * SIDE} of an X-ray"
            )
        if words.max() > LARGEST_GREY:
            raise PixelError(f"has the grey value {words.max()}, above 12 bits")
        if words.min() == words.max():
            raise PixelError(f"is all of one grey, {words.min()}")
        return (LARGEST_GREY - words.astype(np.uint16)).reshape(SIDE, SIDE)


def find(root: Path) -> Found:
    """Find the X-rays and masks below a folder.

    Raises:
        DataError: The folder holds neither.
    """
    xrays = {
        path.stem.upper(): path
        for path in sorted(root.rglob("*"))
        if path.suffix.upper() == ".IMG" and not path.name.startswith(".")
    }
    left, right = _masks(root, "left lung", "left_lung"), _masks(root, "right lung", "right_lung")
    both, problems = matched_with_both_lungs(SOURCE, xrays, left, right)
    pairs = [
        RawPair(
            SOURCE, stem, JsrtXray(xrays[stem]), MaskFiles((left[stem], right[stem]), SCALED_MASK),
            patient=f"jsrt_{stem}", spacing_mm=SPACING_MM,
        )
        for stem in both
    ]  # fmt: skip
    wanted = "*.IMG beside {left,right} lung/*.gif"
    return found(SOURCE, root, wanted, pairs, problems)


def _masks(root: Path, *names: str) -> dict[str, Path]:
    return {
        stem.upper(): path
        for folder in folders_named(root, *names)
        for stem, path in image_files(folder).items()
    }
