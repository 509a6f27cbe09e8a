"""Before pixels are decoded, their coding and number are told, and the reading can be ended."""

from __future__ import annotations

import pytest

from model_store.pictures.picture_reading import read_picture
from model_store.pictures.pixel_coding import PixelCoding
from tests.service.fuzz.fuzz_seeds import HEIGHT, WIDTH, seeds

CODINGS = {
    "grey.png": PixelCoding.DEFLATE,
    "progressive.jpg": PixelCoding.JPEG,
    "raw.tif": PixelCoding.NATIVE,
    "jpeg.tif": PixelCoding.JPEG,
    "tiff_lzw.tif": PixelCoding.DEFLATE,
    "implicit.dcm": PixelCoding.NATIVE,
    "deflated.dcm": PixelCoding.DEFLATE,
    "RLELossless.dcm": PixelCoding.RLE,
    "JPEGBaseline8Bit.dcm": PixelCoding.JPEG,
    "JPEGExtended12Bit.dcm": PixelCoding.JPEG,
    "JPEGLosslessSV1.dcm": PixelCoding.JPEG_LOSSLESS,
    "JPEGLSNearLossless.dcm": PixelCoding.JPEG_LS,
    "JPEG2000Lossless.dcm": PixelCoding.JPEG_2000,
    "HTJ2KLossless.dcm": PixelCoding.JPEG_2000,
}


@pytest.mark.parametrize("name", seeds())
def test_every_format_tells_its_coding_and_size_once(name: str) -> None:
    told: list[tuple[PixelCoding, int]] = []
    read_picture(
        seeds()[name],
        max_pixels=10_000,
        before_decoding=lambda coding, pixels: told.append((coding, pixels)),
    )
    assert [pixels for _, pixels in told] == [HEIGHT * WIDTH]
    assert name not in CODINGS or told[0][0] is CODINGS[name]


class TooDearError(Exception):
    pass


@pytest.mark.parametrize("name", seeds())
def test_whoever_hears_it_may_end_the_reading(name: str) -> None:
    def refuse(coding: PixelCoding, pixels: int) -> None:
        raise TooDearError

    with pytest.raises(TooDearError):
        read_picture(seeds()[name], max_pixels=10_000, before_decoding=refuse)
