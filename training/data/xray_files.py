"""Reading an X-ray and its mask from files of any format that the service reads.

X-rays go through `model_store.pictures`, as they do when they are served: orientation, inverted
photometry and 16 bits are handled in one place, so that a model learns from what it will be asked.
A mask that a format cannot prove is refused, never guessed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from model_store.pictures.picture_errors import PictureError
from model_store.pictures.picture_reading import read_picture
from training.errors import DataError

LARGEST_PIXELS = 100_000_000
"""Above every X-ray; a file that claims more is damaged or no X-ray."""

LARGEST_EDGE_SHARE = 0.25
"""A mask may be soft along its edges; one with more pixels between dark and bright is a picture."""


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


def read_xray_pixels(path: Path) -> NDArray[np.integer]:
    """Decode an X-ray as the service does.

    Returns:
        Grey values, uint8 or uint16 (H, W), bright where dense.

    Raises:
        DataError: It is missing, damaged or of a kind that is not read.
    """
    try:
        pixels: NDArray[np.integer] = read_picture(
            path.read_bytes(), max_pixels=LARGEST_PIXELS
        ).pixels
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except PictureError as error:
        raise DataError(f"{path}: {error.detail}") from error
    return pixels


def read_mask_pixels(path: Path) -> NDArray[np.bool_]:
    """Decode a mask: dark is outside, bright is inside.

    Returns:
        bool (H, W), turned as the file's orientation asks.

    Raises:
        DataError: It cannot be decoded, is held in its transparency or in colours, or is no mask.
    """
    levels = read_mask_levels(path)
    largest = int(levels.max())
    if largest == 0:
        return np.zeros(levels.shape, dtype=bool)
    inside: NDArray[np.bool_] = levels > largest // 2
    # 0 and 1, or 0 and 255, and little in between.
    between = (levels > largest * 0.1) & (levels < largest * 0.9)
    if between.sum() > LARGEST_EDGE_SHARE * levels.size:
        raise DataError(
            f"{path} is no mask: {between.mean():.0%} of its pixels are neither dark nor bright"
        )
    return inside


def read_mask_levels(path: Path) -> NDArray[np.integer]:
    """Decode the one channel of a mask or label map, its values as they are stored.

    Raises:
        DataError: It cannot be decoded, or its channels differ, as of transparency or colours.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as file:
            warnings.simplefilter("ignore")  # of Pillow about odd metadata
            image = ImageOps.exif_transpose(file)
            image.load()
    # Pillow raises SyntaxError for broken PNG chunks.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if image.mode == "P" and not image.info.get("transparency"):
        return np.asarray(image)  # a label map: the index is the label
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise DataError(
                f"{path} holds its mask in its transparency; store it as grey, black outside"
            )
        image = image.convert("RGB")
    values = np.asarray(image)
    if values.ndim == 2:
        return values.astype(np.uint8) if values.dtype == bool else values
    if not (values == values[..., :1]).all():
        raise DataError(f"{path} is coloured; a mask is grey, black outside and white inside")
    return np.asarray(values[..., 0])
