"""A JPEG 2000 codestream with a part missing is refused where its own words tell."""

from __future__ import annotations

import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000

from model_store.pictures.codestream_header import unboxed
from model_store.pictures.jpeg_2000_parts import check_jpeg_2000_parts
from model_store.pictures.picture_errors import UndecodablePictureError
from model_store.pictures.picture_reading import read_picture
from tests.dicom_files import as_file, make_xray


def noisy(side: int = 512) -> NDArray[np.uint16]:
    rows, columns = np.mgrid[0:side, 0:side]
    noise = np.random.default_rng(5).integers(0, 60, (side, side))
    return np.asarray(rows * 5 + columns * 7 + noise, np.uint16)


def encoded(pixels: NDArray[np.uint16], is_lossy: bool) -> bytes:
    level = 75 if is_lossy else 0
    return bytes(
        imagecodecs.jpeg2k_encode(
            pixels, level=level, reversible=not is_lossy, codecformat="j2k", bitspersample=12
        )
    )


def with_hole(codestream: bytes, size_bytes: int) -> bytes:
    start = len(codestream) // 2
    return codestream[:start] + bytes(size_bytes) + codestream[start + size_bytes :]


def in_dicom(codestream: bytes, pixels: NDArray[np.uint16]) -> bytes:
    dataset = make_xray(pixels)
    dataset.file_meta.TransferSyntaxUID = JPEG2000
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return as_file(dataset)


@pytest.mark.parametrize("is_lossy", [False, True])
def test_a_hole_of_zeros_is_refused_and_would_have_been_decoded(is_lossy: bool) -> None:
    codestream = encoded(noisy(), is_lossy)
    check_jpeg_2000_parts(codestream)
    broken = with_hole(codestream, 2048)
    assert (imagecodecs.jpeg2k_decode(broken) != imagecodecs.jpeg2k_decode(codestream)).any()
    with pytest.raises(ValueError, match="hole of zeros"):
        check_jpeg_2000_parts(broken)
    with pytest.raises(UndecodablePictureError):
        read_picture(in_dicom(broken, noisy()), max_pixels=1_000_000)


@pytest.mark.parametrize("encode", [encoded, lambda pixels, _: imagecodecs.htj2k_encode(pixels)])
def test_a_hole_of_ones_is_refused_and_would_have_been_decoded(
    encode: Callable[[NDArray[np.uint16], bool], bytes],
) -> None:
    codestream = unboxed(bytes(encode(noisy(), False)))
    check_jpeg_2000_parts(codestream)
    start = len(codestream) // 2
    broken = codestream[:start] + b"\xff" * 64 + codestream[start + 64 :]
    assert (imagecodecs.jpeg2k_decode(broken) != imagecodecs.jpeg2k_decode(codestream)).any()
    with pytest.raises(ValueError, match="hole of ones"):
        check_jpeg_2000_parts(broken)


@pytest.mark.parametrize("kind", ["flat", "ramp", "edge", "black border", "one pixel", "specks"])
@pytest.mark.parametrize("is_lossy", [False, True])
def test_pictures_without_noise_are_whole(kind: str, is_lossy: bool) -> None:
    rows, columns = np.mgrid[0:512, 0:512]
    pixels = {
        "flat": np.full((512, 512), 700),
        "ramp": rows * 8,
        "edge": np.where(rows > columns, 4095, 0),
        "black border": np.where(columns < 300, 0, noisy(512)),
        "one pixel": (rows * 512 + columns == 100_000) * 4095,
        "specks": (np.random.default_rng(0).random((512, 512)) < 0.001) * 4095,
    }[kind].astype(np.uint16)
    check_jpeg_2000_parts(encoded(pixels, is_lossy))


def with_numbered_packets(numbers: list[int]) -> bytes:
    """Return a codestream of one tile whose packets are empty and have numbers."""
    size = struct.pack(">HHH8IH3B", 0xFF51, 41, 0, 64, 64, 0, 0, 64, 64, 0, 0, 1, 11, 1, 1)
    style = struct.pack(">HHBBHB5B", 0xFF52, 12, 2, 0, len(numbers), 0, 0, 4, 4, 0, 1)
    packets = b"".join(b"\xff\x91\0\4" + struct.pack(">H", one) + b"\0" for one in numbers)
    part = struct.pack(">HHHIBB", 0xFF90, 10, 0, 14 + len(packets), 0, 1) + b"\xff\x93" + packets
    return b"\xff\x4f" + size + style + part + b"\xff\xd9"


def test_numbered_packets_are_counted() -> None:
    check_jpeg_2000_parts(with_numbered_packets([0, 1, 2, 3]))
    for numbers in ([0, 2, 3], [1, 2], [0, 1, 1]):
        with pytest.raises(ValueError, match="a packet is missing"):
            check_jpeg_2000_parts(with_numbered_packets(numbers))


def test_runs_are_not_judged_where_coefficients_may_stand_uncoded() -> None:
    codestream = bytearray(encoded(noisy(), is_lossy=False))
    style = codestream.index(b"\xff\x52")
    broken = bytearray(with_hole(bytes(codestream), 2048))
    broken[style + 12] |= 1  # the bypass mode
    check_jpeg_2000_parts(bytes(broken))
