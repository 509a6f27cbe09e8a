"""JPEG files with megabytes of metadata: read without them, and to the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from model_store.pictures.jpeg_metadata import MOST_METADATA_BYTES, without_long_metadata
from model_store.pictures.picture_errors import UndecodablePictureError
from model_store.pictures.picture_reading import read_picture
from tests.raster_files import encoded, ramp

LONGEST = 65_533
EXIF = b"\xff\xe1\xff\xffExif\0\0" + bytes(LONGEST - 6)
COMMENT = b"\xff\xfe\xff\xff" + bytes(LONGEST)
PROFILE = b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes(LONGEST - 12)
MANY = MOST_METADATA_BYTES // LONGEST + 1


def grown(jpeg: bytes, metadata: bytes) -> bytes:
    """A JPEG with metadata before its own."""
    return jpeg[:2] + metadata + jpeg[2:]


def turned_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(ramp()), "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize("segment", [COMMENT, PROFILE], ids=["comments", "profiles"])
def test_pixels_and_orientation_stay_and_the_rest_goes(segment: bytes) -> None:
    plain = turned_jpeg()
    data = grown(plain, segment * MANY)
    assert without_long_metadata(data) == plain
    expected = read_picture(plain, max_pixels=10_000)
    found = read_picture(data, max_pixels=10_000)
    assert np.array_equal(found.pixels, expected.pixels)
    assert found.pixels.shape == ramp().T.shape
    assert found.warnings == expected.warnings


def test_of_many_exif_segments_the_first_is_the_one() -> None:
    data = grown(turned_jpeg(), EXIF * MANY)
    kept = without_long_metadata(data)
    assert kept.count(b"Exif\0\0") == 1 and len(kept) < 2 * LONGEST
    assert read_picture(data, max_pixels=10_000).pixels.shape == ramp().shape  # it asks for nothing


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_how_colours_are_coded_is_still_known(mode: str) -> None:
    picture = Image.fromarray(ramp()).convert("RGB")
    picture.putpixel((3, 3), (255, 0, 0))
    plain = encoded(picture.convert(mode), "JPEG", quality=95)
    found = read_picture(grown(plain, COMMENT * MANY), max_pixels=10_000)
    assert np.array_equal(found.pixels, read_picture(plain, max_pixels=10_000).pixels)


def test_a_long_statement_of_how_colours_are_coded_is_kept() -> None:
    """Read as Y, Cb, Cr these pixels would be other greys."""
    picture = Image.fromarray(ramp()).convert("RGB")
    picture.putpixel((3, 3), (255, 0, 0))
    jfif = encoded(picture, "JPEG", quality=95)
    plain = jfif[:2] + jfif[20:]  # JFIF would say how they are coded
    as_rgb = b"\xff\xee\xff\xffAdobe" + bytes(7) + bytes(LONGEST - 12)
    short = b"\xff\xee\x00\x0eAdobe" + bytes(7)
    found = read_picture(grown(plain, as_rgb + COMMENT * MANY), max_pixels=10_000)
    expected = read_picture(grown(plain, short), max_pixels=10_000)
    assert np.array_equal(found.pixels, expected.pixels)


def test_what_is_not_long_is_not_touched() -> None:
    data = grown(turned_jpeg(), COMMENT * 10)
    assert without_long_metadata(data) is data


def test_a_length_past_the_end_is_damage() -> None:
    with pytest.raises(UndecodablePictureError):
        read_picture(b"\xff\xd8" + COMMENT * MANY + b"\xff\xfe\xff\xff", max_pixels=10_000)
    with pytest.raises(UndecodablePictureError):
        read_picture(b"\xff\xd8" + COMMENT * MANY + b"no marker", max_pixels=10_000)
