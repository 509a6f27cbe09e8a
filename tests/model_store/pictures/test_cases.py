"""Small files after public bug reports, each with its right answer; they lie beside the clone."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import pytest

from model_store.pictures.picture_errors import (
    PictureError,
    UndecodablePictureError,
)
from model_store.pictures.picture_reading import Picture, read_picture

LIMIT = 40_000_000
UPRIGHT = (1100, 1000)

# What is to be: a refusal, or the codes of the warnings.
CASES: dict[str, type[PictureError] | list[str]] = {
    "dicom/border65535_voi_given.dcm": ["window_applied"],
    "dicom/cs_2022_IR100.dcm": [],
    "dicom/cs_empty.dcm": [],
    "dicom/dcm_birthdate_19000000.dcm": [],
    "dicom/dcm_japanese_iso2022.dcm": [],
    "dicom/dcm_sc_multiframe_1frame.dcm": [],
    "dicom/dcm_sex_lower.dcm": [],
    "dicom/dcm_tiff_preamble.dcm": [],
    "dicom/jpeg_lossless_sv1.dcm": [],
    "dicom/lateral_by_viewcode.dcm": ["not_frontal_view"],
    "dicom/missing_SamplesPerPixel.dcm": [],
    "dicom/padding_equals_saturation.dcm": [],
    "dicom/part_TORAX.dcm": [],
    "dicom/pixelspacing_zero.dcm": [],
    "dicom/preamble_JPEG_magic.dcm": [],
    "dicom/rotated_90ccw_patientorientation.dcm": ["orientation_applied"],
    "dicom/studytime_colons.dcm": [],
    "dicom/view_POSTERO-ANTERIOR.dcm": [],
    "dicom/voi_lut_falling.dcm": ["inverted_to_monochrome2"],
    "pictures/bigtiff_big_endian.tif": [],
    "pictures/jpeg12.jpg": [],
    "pictures/jpeg_zeros_before_rst.jpg": [],
    "pictures/jpegls.jls": [],
    "pictures/png4_trns15.png": ["alpha_composited"],
    "pictures/tiff12_white_is_zero.tif": ["inverted_to_monochrome2"],
    "pictures/tiff8_no_photometric.tif": UndecodablePictureError,
    "pictures/tiff_jpeg_cut.tif": UndecodablePictureError,
    "training/train_exif3.jpg": ["orientation_applied"],
    "attack/dicom_items_200k.dcm": UndecodablePictureError,
    "attack/jpegls_never_ends.dcm": UndecodablePictureError,
    "attack/palette_without_plte.png": UndecodablePictureError,
    "attack/progressive_1500_scans.dcm.gz": UndecodablePictureError,
}


@pytest.fixture(scope="module")
def cases(xray_root: Path) -> Path:
    folder = xray_root.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: real-life files were NOT read")
    return folder


def bytes_of(cases: Path, name: str) -> bytes:
    data = (cases / name).read_bytes()
    return gzip.decompress(data) if name.endswith(".gz") else data


def read(cases: Path, name: str) -> Picture:
    return read_picture(bytes_of(cases, name), max_pixels=LIMIT)


@pytest.mark.parametrize("name", CASES)
def test_each_file_gets_its_right_answer(cases: Path, name: str) -> None:
    expected, data = CASES[name], bytes_of(cases, name)
    began = time.process_time()
    if isinstance(expected, list):
        picture = read_picture(data, max_pixels=LIMIT)
        assert [str(one.code) for one in picture.warnings] == expected
        assert picture.pixels.max() > picture.pixels.min()
    else:
        with pytest.raises(expected):
            read_picture(data, max_pixels=LIMIT)
    assert time.process_time() - began < 2.0  # the worst took 12 s and more


def test_every_file_that_decoding_answers_for_is_in_the_table(cases: Path) -> None:
    found = {
        f"{folder}/{path.name}"
        for folder in ("dicom", "pictures", "attack")
        for path in (cases / folder).iterdir()
    }
    assert found <= set(CASES)


def test_files_of_the_same_xray_have_the_same_pixels(cases: Path) -> None:
    expected = read(cases, "dicom/cs_empty.dcm").pixels
    for name in (
        "cs_2022_IR100",
        "jpeg_lossless_sv1",
        "lateral_by_viewcode",
        "missing_SamplesPerPixel",
        "preamble_JPEG_magic",
        "studytime_colons",
        "voi_lut_falling",
    ):
        assert np.array_equal(read(cases, f"dicom/{name}.dcm").pixels, expected), name
    turned = read(cases, "dicom/rotated_90ccw_patientorientation.dcm")
    assert np.array_equal(turned.upright, expected)
    assert turned.pixels.shape == UPRIGHT[::-1]


def test_padding_that_is_tissue_stays_white(cases: Path) -> None:
    pixels = read(cases, "dicom/padding_equals_saturation.dcm").pixels
    assert np.count_nonzero(pixels == 4095) > 0.15 * pixels.size
