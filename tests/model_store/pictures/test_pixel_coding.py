"""Before pixels are decoded, their coding and number are told, and the reading can be ended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from model_store.pictures.jpeg_pixels import USUAL_SCANS
from model_store.pictures.picture_reading import read_picture
from model_store.pictures.pixel_coding import PixelCoding
from tests.dicom_files import as_file, make_xray
from tests.model_store.pictures.test_tiff import tiff
from tests.raster_files import encoded
from tests.service.fuzz.fuzz_seeds import HEIGHT, WIDTH, grey, seeds

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


def repeated(jpeg: bytes, scans: int) -> bytes:
    """The same progressive JPEG with its last scan, which refines what is there, many times."""
    last = jpeg.rindex(b"\xff\xda")
    more = scans - jpeg.count(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * more + jpeg[-2:]


def in_dicom(jpeg: bytes) -> bytes:
    xray = make_xray(np.zeros((HEIGHT, WIDTH), np.uint8), bits_stored=8)
    xray.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    xray.PixelData = encapsulate([jpeg])
    xray["PixelData"].VR = "OB"
    return as_file(xray)


def in_tiff(jpeg: bytes) -> bytes:
    return tiff([jpeg], (HEIGHT, WIDTH), 8, tags={259: 7})


@pytest.mark.parametrize("wrapped", [bytes, in_dicom, in_tiff])
def test_a_jpeg_says_when_it_has_more_scans_than_encoders_write(
    wrapped: Callable[[bytes], bytes],
) -> None:
    jpeg = encoded(Image.fromarray(grey()), "JPEG", progressive=True)
    told: list[PixelCoding] = []
    for scans in (USUAL_SCANS, USUAL_SCANS + 1):
        read_picture(
            wrapped(repeated(jpeg, scans)),
            max_pixels=10_000,
            before_decoding=lambda coding, pixels: told.append(coding),
        )
    assert told == [PixelCoding.JPEG, PixelCoding.JPEG_SCANS]


class TooDearError(Exception):
    pass


@pytest.mark.parametrize("name", seeds())
def test_whoever_hears_it_may_end_the_reading(name: str) -> None:
    def refuse(coding: PixelCoding, pixels: int) -> None:
        raise TooDearError

    with pytest.raises(TooDearError):
        read_picture(seeds()[name], max_pixels=10_000, before_decoding=refuse)
