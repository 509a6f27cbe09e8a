"""Masks have two levels; soft ones and label maps are read as asked; others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store.pictures.mask_reading import MaskError, read_levels, read_mask
from model_store.pictures.picture_errors import UndecodablePictureError, UnsupportedPictureError
from tests.raster_files import encoded


def disc(height: int = 60, width: int = 80) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[0:height, 0:width]
    return (rows - 25) ** 2 + (columns - 30) ** 2 < 300


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1), (7, 9), (100, 255)])
def test_the_higher_of_two_levels_is_inside(kind: str, low: int, high: int) -> None:
    image = Image.fromarray(np.where(disc(), high, low).astype(np.uint8))
    assert np.array_equal(read_mask(encoded(image, kind)), disc())


@pytest.mark.parametrize("mode", ["1", "RGB", "RGBA", "I;16"])
def test_masks_of_other_modes_are_read(mode: str) -> None:
    grey = np.where(disc(), 255, 0)
    image = Image.fromarray(grey.astype(np.uint16 if "16" in mode else np.uint8))
    data = encoded(image if "16" in mode else image.convert(mode), "PNG")
    assert np.array_equal(read_mask(data), disc())


@pytest.mark.parametrize("value", [0, 1, 255])
def test_one_level_is_refused(value: int) -> None:
    with pytest.raises(MaskError, match="one level"):
        read_mask(encoded(Image.new("L", (60, 50), value), "PNG"))


def test_a_part_may_be_empty_where_that_is_said() -> None:
    data = encoded(Image.new("L", (60, 50), 0), "PNG")
    assert not read_mask(data, may_be_empty=True).any()
    with pytest.raises(MaskError):
        read_mask(encoded(Image.new("L", (60, 50), 255), "PNG"), may_be_empty=True)


def test_noise_around_a_mask_asks_for_a_threshold() -> None:
    data = encoded(Image.fromarray(np.where(disc(), 255, 0).astype(np.uint8)), "JPEG", quality=60)
    with pytest.raises(MaskError, match="--mask-threshold"):
        read_mask(data)
    found = read_mask(data, threshold=0.5)
    assert np.count_nonzero(found != disc()) < 0.02 * disc().size


def test_a_label_map_is_refused_as_a_mask() -> None:
    labels = np.where(disc(), 1, 0)
    labels[:, 60:] = 2
    data = encoded(Image.fromarray(labels.astype(np.uint8)), "PNG")
    with pytest.raises(MaskError, match="3 levels"):
        read_mask(data)
    assert np.array_equal(read_levels(data), labels)  # whoever names the numbers loses no lung


def test_a_palette_gives_its_numbers() -> None:
    image = Image.fromarray(np.where(disc(), 2, 0).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 9, 9, 9, 255, 0, 0] + [0] * 759)
    image = Image.fromarray(np.where(disc(), 2, 0).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 9, 9, 9, 255, 0, 0] + [0] * 759)
    assert np.array_equal(read_mask(encoded(image, "PNG")), disc())


def test_a_mask_in_transparency_or_colours_is_refused() -> None:
    alpha = np.dstack([np.full((*disc().shape, 3), 255), disc() * 255]).astype(np.uint8)
    with pytest.raises(UnsupportedPictureError, match="transparency"):
        read_mask(encoded(Image.fromarray(alpha), "PNG"))
    red = np.dstack([disc() * 255, disc() * 0, disc() * 0]).astype(np.uint8)
    with pytest.raises(UnsupportedPictureError, match="coloured"):
        read_mask(encoded(Image.fromarray(red), "PNG"))


def test_a_mask_is_turned_as_its_xray_is() -> None:
    image = Image.fromarray(np.where(disc(), 255, 0).astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = 3
    assert np.array_equal(read_mask(encoded(image, "PNG", exif=exif)), disc()[::-1, ::-1])


def test_damage_is_told() -> None:
    data = encoded(Image.fromarray(np.where(disc(), 255, 0).astype(np.uint8)), "PNG")
    with pytest.raises(UndecodablePictureError):
        read_mask(data[: len(data) // 2])


def test_the_mask_of_a_case_in_transparency_is_refused(xray_root: Path) -> None:
    file = xray_root.parent / "cases/training/mask_alpha_white_rgb.png"
    if not file.is_file():
        pytest.skip(f"no {file}: it was NOT read")
    with pytest.raises(UnsupportedPictureError, match="transparency"):
        read_mask(file.read_bytes())
