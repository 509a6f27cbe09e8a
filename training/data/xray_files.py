"""Reading an X-ray and its mask from files of any format that the service reads.

X-rays go through `model_store.pictures`, as they do when they are served: orientation, inverted
photometry and 16 bits are handled in one place, so that a model trains on the same pixels that it
will be served. A mask that a format cannot prove is refused, never guessed.
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
"""Above every X-ray; a file that claims more is damaged or no X-ray."""


def files_by_name(folder: Path) -> Mapping[str, Path]:
    """Return the files of a folder by their name without the ending; none where it is missing.

    Raises:
        DataError: Two files differ in their ending alone.
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
        Its pixels as boxes and masks refer to them, and the way from there to the upright X-ray.

    Raises:
        DataError: It is missing, damaged or of a kind that is not read.
    """
    try:
        return read_picture(_bytes_of(path), max_pixels=LARGEST_PIXELS)
    except PictureError as error:
        raise DataError(f"{path}: {error.detail}") from error


def read_mask_pixels(path: Path) -> NDArray[np.bool_]:
    """Decode a mask of two levels, or of zeros alone.

    Returns:
        bool (H, W), turned as the file's orientation asks.

    Raises:
        DataError: It cannot be decoded, is held in its transparency or in colours, or is no mask.
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
