"""Further masks of an X-ray beside its data set's: the other convention, and the heart.

A folder of further masks holds ``lung_field/``, ``whole_lung/`` and ``heart/``, each with a
``NAME.png`` of the upright X-ray's size for some of the X-rays. People annotated them, or models
(``python -m training pseudo-masks``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model_store.conventions import CONVENTIONS
from model_store.structures import HEART
from training.data.dataset import LabelledXray, scaled_mask, split_lungs
from training.data.xray_files import read_mask_pixels
from training.errors import DataError

PLANES = 3
"""Planes of further masks: the lung at the image's left, the one at its right, the heart."""


@dataclass(frozen=True)
class FurtherMasks:
    """Further masks of one X-ray.

    Attributes:
        planes: Lungs of the other convention, left and right in the image, and the heart; empty if
            unknown. bool (3, H, W).
        lungs_known: Whether the lungs of the other convention are known.
        heart_known: Whether the heart is known.
    """

    planes: NDArray[np.bool_]
    lungs_known: bool
    heart_known: bool


def with_further_masks(xrays: Sequence[LabelledXray], folders: Iterable[str]) -> list[LabelledXray]:
    """Return the X-rays with their further masks from the folders.

    The first folder with a mask decides.

    Raises:
        DataError: A folder holds no masks, or a mask is unreadable or of another shape.
    """
    roots = [Path(folder) for folder in folders]
    for root in roots:
        if not any((root / kind).is_dir() for kind in (*CONVENTIONS, HEART)):
            raise DataError(
                f"{root} holds none of {', '.join((*CONVENTIONS, HEART))}: no further masks"
            )
    if not roots:
        return list(xrays)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda xray: _with_further(xray, roots), xrays))


def _with_further(xray: LabelledXray, roots: Sequence[Path]) -> LabelledXray:
    (other,) = (one for one in CONVENTIONS if one != xray.convention)
    lungs, heart = (_read(roots, kind, xray) for kind in (other, HEART))
    if lungs is None and heart is None:
        return xray
    planes = np.zeros((PLANES, *xray.image.shape), dtype=bool)
    if lungs is not None:
        planes[:2] = _sides(lungs, xray)
    if heart is not None:
        planes[2] = heart
    known = FurtherMasks(planes, lungs is not None, heart is not None)
    return dataclasses.replace(xray, further=known)


def _read(roots: Sequence[Path], kind: str, xray: LabelledXray) -> NDArray[np.bool_] | None:
    """Read a mask at the X-ray's size in memory, bool (H, W); None if no folder has one."""
    path = next((p for root in roots if (p := root / kind / f"{xray.name}.png").is_file()), None)
    if path is None:
        return None
    mask = read_mask_pixels(path)
    height, width = xray.image.shape
    if abs(mask.shape[0] * width - mask.shape[1] * height) > 2 * max(*mask.shape, width, height):
        raise DataError(f"{path} is {mask.shape} but its X-ray {xray.image.shape}")
    return scaled_mask(mask, (width, height))


def _sides(mask: NDArray[np.bool_], xray: LabelledXray) -> NDArray[np.bool_]:
    """Split a mask like the X-ray's own lungs, bool (2, H, W)."""
    pair = split_lungs(mask)
    if pair[1].any() or not xray.lungs[1].any():
        return pair
    centres = [ndimage.center_of_mass(lung)[1] for lung in xray.lungs]
    is_right = np.arange(mask.shape[1]) > sum(centres) / 2
    return np.stack([mask & ~is_right, mask & is_right])
