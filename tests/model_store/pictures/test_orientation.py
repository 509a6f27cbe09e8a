"""Turning upright and back: an involution for arrays and boxes, and as EXIF and DICOM mean it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageOps

from model_store.pictures.orientation import (
    UPRIGHT,
    Orientation,
    orientation_of_exif,
    orientation_of_patient,
)
from model_store.pictures.picture_reading import read_picture
from tests.dicom_files import as_file, make_xray

orientations = st.builds(Orientation, st.booleans(), st.booleans(), st.booleans())
pictures = arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)))
PAIRS = [(row, column) for row in "LR" for column in "HF"]
PAIRS += [(column, row) for row, column in PAIRS]


@given(orientations, pictures)
def test_turning_back_undoes_turning(orientation: Orientation, stored: NDArray[np.uint16]) -> None:
    upright = orientation.apply(stored)
    assert np.array_equal(orientation.invert(upright), stored)
    assert np.array_equal(orientation.inverse.apply(upright), stored)
    assert orientation.inverse.inverse == orientation
    assert upright.flags.c_contiguous
    height, width = stored.shape
    assert upright.shape[::-1] == orientation.size_of(width, height)


@given(orientations, st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_box_goes_where_its_pixels_go(
    orientation: Orientation, height: int, width: int, data: st.DataObject
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1 = data.draw(st.integers(x0 + 1, width))
    y1 = data.draw(st.integers(y0 + 1, height))
    stored = np.zeros((height, width), bool)
    stored[y0:y1, x0:x1] = True
    box = (float(x0), float(y0), float(x1), float(y1))
    turned = orientation.apply_to_box(box, width, height)
    left, top, right, bottom = (int(value) for value in turned)
    upright = np.zeros(orientation.size_of(width, height)[::-1], bool)
    upright[top:bottom, left:right] = True
    assert np.array_equal(orientation.apply(stored), upright)
    assert orientation.invert_box(turned, width, height) == box


@pytest.mark.parametrize("tag", range(10))
def test_exif_is_meant_as_pillow_means_it(tag: int) -> None:
    stored = np.arange(35, dtype=np.uint8).reshape(5, 7)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = tag
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(orientation_of_exif(tag).apply(stored), expected)


@pytest.mark.parametrize("value", [0, 9, "6", None, 6.0])
def test_other_values_of_the_tag_ask_for_nothing(value: object) -> None:
    assert orientation_of_exif(value) == UPRIGHT


def directed(rows: str, columns: str, size: tuple[int, int] = (40, 60)) -> NDArray[np.uint16]:
    """Pixels stored so that rows and columns run to where is said; values grow to L and F."""
    steps = {"L": (1, 0), "R": (-1, 0), "F": (0, 1), "H": (0, -1)}
    height, width = size
    along_row, along_column = steps[rows], steps[columns]
    ys, xs = np.mgrid[0:height, 0:width]
    left = xs * along_row[0] + ys * along_column[0]
    foot = xs * along_row[1] + ys * along_column[1]
    return ((left - left.min()) * 50 + (foot - foot.min())).astype(np.uint16)


@pytest.mark.parametrize(("rows", "columns"), PAIRS)
def test_the_header_turns_left_to_the_right_and_feet_to_the_bottom(rows: str, columns: str) -> None:
    orientation = orientation_of_patient(rows, columns)
    assert orientation is not None
    upright = orientation.apply(directed(rows, columns)).astype(int)
    assert (np.diff(upright, axis=1) == 50).all()
    assert (np.diff(upright, axis=0) == 1).all()


@pytest.mark.parametrize("pair", ["LR", "HF", "LL", "AF", "LP", "XF", "L "])
def test_directions_that_span_no_frontal_picture_turn_nothing(pair: str) -> None:
    assert orientation_of_patient(*pair) is None


@pytest.mark.parametrize(("rows", "columns"), PAIRS)
@pytest.mark.parametrize("suffix", ["", "A"])
def test_dicom_keeps_its_pixels_and_tells_the_way_upright(
    rows: str, columns: str, suffix: str
) -> None:
    stored = directed(rows, columns, (48, 64))
    dataset = make_xray(stored, bits_stored=16, PatientOrientation=[rows + suffix, columns])
    picture = read_picture(as_file(dataset), max_pixels=10_000)
    assert np.array_equal(picture.pixels, stored)
    assert (np.diff(picture.upright.astype(int), axis=1) == 50).all()
    is_turned = (rows, columns) != ("L", "F")
    assert [str(one.code) for one in picture.warnings] == ["orientation_applied"] * is_turned


def test_exif_turns_the_pixels_themselves() -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64).astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(buffer, "PNG", exif=exif)
    picture = read_picture(buffer.getvalue(), max_pixels=10_000)
    assert picture.orientation.is_upright
    assert picture.pixels.shape == (64, 48)


@pytest.mark.parametrize("keyword", ["FieldOfViewRotation", "FieldOfViewHorizontalFlip"])
def test_what_was_done_before_storing_is_not_done_again(keyword: str) -> None:
    values: dict[str, Any] = {"FieldOfViewRotation": "90", "FieldOfViewHorizontalFlip": "YES"}
    xray = make_xray(**{keyword: values[keyword]})
    picture = read_picture(as_file(xray), max_pixels=10_000)
    assert picture.orientation.is_upright
