"""Read an X-ray and its mask from files of any format that the service supports.

`model_store.pictures` reads X-rays for training and service: it handles orientation, inverted
photometry and 16 bits. So a model is trained on the pixels that it gets in service. An ambiguous
mask is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.pictures.mask_reading import read_mask
from model_store.pictures.picture_errors import PictureError
from model_store.pictures.picture_reading import Picture, read_picture
from training.errors import DataError

LARGEST_PIXELS = 100_000_000
"""Most pixels, more than any X-ray has; a file that claims more is damaged or not an X-ray."""


def files_by_name(folder: Path) -> Mapping[str, Path]:
    """Return the files of a folder by name without extension; none if the folder is missing.

    Raises:
        DataError: Two files differ only in their extension.
    """
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path} have one name; which one is meant?")
        found[path.stem] = path
    return found


def read_xray(path: Path) -> Picture:
    """Decode an X-ray as the service does.

    Returns:
        Its pixels, in the frame of boxes and masks, and how to turn them upright.

    Raises:
        DataError: It is missing, damaged or of an unsupported kind.
    """
    try:
        return read_picture(_bytes_of(path), max_pixels=LARGEST_PIXELS)
    except PictureError as error:
        raise DataError(f"{path}: {error.detail}") from error


def read_mask_pixels(path: Path) -> NDArray[np.bool_]:
    """Decode a mask of two levels, or of zeros only.

    Returns:
        bool (H, W), turned by the file's orientation.

    Raises:
        DataError: It cannot be decoded, is in transparency or colours, or is not a mask.
    """
    try:
        return read_mask(_bytes_of(path), may_be_empty=True)
    except PictureError as error:
        raise DataError(f"{path}: {error.detail}") from error


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
