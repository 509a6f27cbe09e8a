"""One X-ray in every container and reversible syntax has the same pixels, and the same mask."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from model_store.geometry import window_to_uint8
from model_store.pictures.picture_reading import read_picture
from tests.dicom_files import as_big_endian_file, as_file, make_xray

LIMIT = 40_000_000
LEAST_DICE = 0.999
Pixels = NDArray[np.uint16]


def drawn() -> Pixels:
    """An X-ray-like picture of 12 bits, (H, W)."""
    rows, columns = np.mgrid[0:200, 0:240]
    values = 0.75 - 0.6 * np.exp(-(((columns - 75) / 30) ** 2 + ((rows - 95) / 60) ** 2))
    values -= 0.6 * np.exp(-(((columns - 165) / 30) ** 2 + ((rows - 95) / 60) ** 2))
    values += np.random.default_rng(2).normal(0, 0.01, values.shape)
    return (np.clip(values, 0, 1) * 4095).astype(np.uint16)


def picture(pixels: Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def encapsulated(pixels: Pixels, syntax: UID, frame: bytes | bytearray) -> bytes:
    dataset: Dataset = make_xray(pixels)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([bytes(frame)])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    return as_file(dataset)


def with_syntax(pixels: Pixels, syntax: UID) -> bytes:
    dataset = make_xray(pixels)
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    return as_file(dataset)


FORMS: dict[str, Callable[[Pixels], bytes]] = {
    "PNG of 16 bits": lambda pixels: picture(pixels, "PNG"),
    "TIFF": lambda pixels: picture(pixels, "TIFF"),
    "TIFF, deflated": lambda pixels: picture(pixels, "TIFF", compression="tiff_deflate"),
    "TIFF, white is zero": lambda pixels: picture(65535 - pixels, "TIFF", tiffinfo={262: 0}),
    "MONOCHROME2": lambda pixels: as_file(make_xray(pixels)),
    "MONOCHROME1": lambda pixels: as_file(
        make_xray((4095 - pixels).astype(np.uint16), PhotometricInterpretation="MONOCHROME1")
    ),
    "big endian": lambda pixels: as_big_endian_file(make_xray(pixels), pixels),
    "deflated": lambda pixels: with_syntax(pixels, DeflatedExplicitVRLittleEndian),
    "RLE": lambda pixels: with_syntax(pixels, RLELossless),
    "JPEG lossless": lambda pixels: encapsulated(
        pixels,
        JPEGLosslessSV1,
        imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=12, predictor=1),
    ),
    "JPEG-LS": lambda pixels: encapsulated(
        pixels, JPEGLSLossless, imagecodecs.jpegls_encode(pixels)
    ),
    "JPEG 2000": lambda pixels: encapsulated(
        pixels,
        JPEG2000Lossless,
        imagecodecs.jpeg2k_encode(
            pixels, level=0, codecformat="j2k", reversible=True, bitspersample=12
        ),
    ),
    "HTJ2K": lambda pixels: encapsulated(pixels, HTJ2KLossless, imagecodecs.htj2k_encode(pixels)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_xray_is_windowed_to_the_same_input(form: str) -> None:
    found = read_picture(FORMS[form](drawn()), max_pixels=LIMIT).upright
    assert np.array_equal(window_to_uint8(found), window_to_uint8(drawn()))


@pytest.fixture(scope="module")
def segment() -> Iterator[Callable[[Pixels], NDArray[np.bool_]]]:
    from model_store.prediction import PredictionRequest
    from tests.mask_digests import load_predictor

    predictor = load_predictor("as_chosen")

    def mask_of(pixels: Pixels) -> NDArray[np.bool_]:
        return predictor.predict(PredictionRequest(pixels)).masks[0].mask

    yield mask_of


def test_every_form_of_a_real_xray_has_the_same_mask(
    xray_root: Path, segment: Callable[[Pixels], NDArray[np.bool_]]
) -> None:
    file = sorted((xray_root / "cxr/val/images").iterdir())[0]
    grey = read_picture(file.read_bytes(), max_pixels=LIMIT).pixels
    pixels = (grey.astype(np.uint16) * 16 + 8).astype(np.uint16)  # 12 bits
    expected = segment(pixels)
    for form, make in FORMS.items():
        found = segment(read_picture(make(pixels), max_pixels=LIMIT).upright)
        dice = 2 * (found & expected).sum() / (found.sum() + expected.sum())
        assert dice >= LEAST_DICE, form
