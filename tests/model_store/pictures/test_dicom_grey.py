"""Which end is white, what is padding, and what a header contradicts."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from model_store.pictures.edge_regions import surrounding_regions
from model_store.pictures.picture_errors import UndecodablePictureError
from model_store.pictures.picture_reading import Picture, read_picture
from tests.dicom_files import as_file, make_xray

LIMIT = 1_000_000
INVERTED = "inverted_to_monochrome2"
CONTRADICTORY = "contradictory_presentation"


def xray(bits: int = 12, height: int = 60, width: int = 80) -> NDArray[np.uint16]:
    """Dark lungs in brighter tissue before black surroundings, (H, W)."""
    rows, columns = np.mgrid[0:height, 0:width]
    values = 0.7 - 0.5 * np.exp(-(((columns - 25) / 9) ** 2 + ((rows - 30) / 18) ** 2))
    values -= 0.5 * np.exp(-(((columns - 55) / 9) ** 2 + ((rows - 30) / 18) ** 2))
    values += np.random.default_rng(4).normal(0, 0.01, values.shape)
    return (np.clip(values, 0, 1) * ((1 << bits) - 1)).astype(np.uint16)


def decoded(dataset: Dataset) -> Picture:
    return read_picture(as_file(dataset), max_pixels=LIMIT)


def codes(picture: Picture) -> list[str]:
    return [str(warning.code) for warning in picture.warnings]


def table(entries: NDArray[Any], first: int = 0, bits: int = 16, form: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first, bits])
    value = entries.astype(np.uint16).tolist() if form == "US" else entries.tobytes()
    item.add_new("LUTData", form, value)
    return item


def falling(bits: int) -> NDArray[np.uint16]:
    """A curve that falls over 12-bit inputs to outputs of some depth."""
    return (np.linspace(1, 0, 4096) ** 1.5 * ((1 << bits) - 1)).astype(np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("form", ["US", "OW"])
def test_a_falling_voi_table_inverts(bits: int, form: str) -> None:
    picture = decoded(make_xray(xray(), VOILUTSequence=[table(falling(bits), 0, bits, form)]))
    assert np.array_equal(picture.pixels, 4095 - xray())
    assert codes(picture) == [INVERTED]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_rising_voi_table_changes_nothing(bits: int) -> None:
    picture = decoded(make_xray(xray(), VOILUTSequence=[table(falling(bits)[::-1], 0, bits)]))
    assert np.array_equal(picture.pixels, xray())
    assert codes(picture) == []


def test_a_table_is_judged_where_the_values_are() -> None:
    rises_late = np.concatenate([np.full(3500, 1000), np.linspace(1000, 65535, 596)])
    falls_early = np.concatenate([np.linspace(60000, 2000, 3200), np.linspace(2000, 65535, 896)])
    values = np.clip(xray(), 0, 3000)
    assert codes(decoded(make_xray(values, VOILUTSequence=[table(rises_late)]))) == []
    assert codes(decoded(make_xray(values, VOILUTSequence=[table(falls_early)]))) == [INVERTED]


def test_two_inversions_cancel() -> None:
    attributes: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1"}
    picture = decoded(make_xray(xray(), VOILUTSequence=[table(falling(12))], **attributes))
    assert np.array_equal(picture.pixels, xray())
    picture = decoded(make_xray(xray(), RescaleSlope="-1", RescaleIntercept="4095", **attributes))
    assert np.array_equal(picture.pixels, xray())


@pytest.mark.parametrize(
    ("photometric", "shape", "is_inverted", "is_contradictory"),
    [
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME1", "INVERSE", True, False),
        ("MONOCHROME2", "INVERSE", True, True),
        ("MONOCHROME1", "IDENTITY", True, True),
        ("MONOCHROME2", "", False, False),
        ("MONOCHROME1", None, True, False),
    ],
)
def test_the_presentation_shape_is_followed_and_contradictions_are_said(
    photometric: str, shape: str | None, is_inverted: bool, is_contradictory: bool
) -> None:
    attributes: dict[str, Any] = {"PhotometricInterpretation": photometric}
    if shape is not None:
        attributes["PresentationLUTShape"] = shape
    picture = decoded(make_xray(xray(), **attributes))
    assert np.array_equal(picture.pixels, 4095 - xray() if is_inverted else xray())
    assert codes(picture) == [INVERTED] * is_inverted + [CONTRADICTORY] * is_contradictory


@pytest.mark.parametrize("is_falling", [True, False])
def test_a_presentation_table_is_followed(is_falling: bool) -> None:
    entries = falling(12) if is_falling else falling(12)[::-1]
    picture = decoded(make_xray(xray(), PresentationLUTSequence=[table(entries, 0, 12)]))
    assert np.array_equal(picture.pixels, 4095 - xray() if is_falling else xray())


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["US", "OW"])
def test_a_modality_table_of_any_depth_is_applied(bits: int, form: str) -> None:
    entries = falling(bits)[::-1]
    picture = decoded(make_xray(xray(), ModalityLUTSequence=[table(entries, 0, bits, form)]))
    assert np.array_equal(picture.pixels, entries[xray()])


def test_bytes_of_a_table_of_8_bits_are_read() -> None:
    entries = falling(8)[::-1].astype(np.uint8)
    picture = decoded(make_xray(xray(), ModalityLUTSequence=[table(entries, 0, 8, "OW")]))
    assert np.array_equal(picture.pixels, entries[xray()])


def test_a_table_with_a_negative_start_is_read_for_signed_values() -> None:
    signed = xray().astype(np.int16) - 2048
    entries = np.arange(4096, dtype=np.uint16) * 3
    item = table(entries)
    item.add_new("LUTDescriptor", "SS", [4096, -2048, 16])
    picture = decoded(make_xray(signed, ModalityLUTSequence=[item]))
    assert np.array_equal(picture.pixels, entries[xray()])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_tables_and_padding_are_read_in_every_coding(syntax: str) -> None:
    pixels = xray()
    pixels[:12] = 4000
    dataset = make_xray(pixels, VOILUTSequence=[table(falling(12))], PixelPaddingValue=4000)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.astype(">u2").tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    picture = read_picture(buffer.getvalue(), max_pixels=LIMIT)
    assert codes(picture) == [INVERTED]
    assert (picture.pixels[:12] == picture.pixels[12:].min()).all()
    assert np.array_equal(picture.pixels[12:], 4095 - pixels[12:])


@pytest.mark.parametrize("count", [5000, 0])
def test_a_table_shorter_than_said_is_refused(count: int) -> None:
    item = table(falling(12))
    item.add_new("LUTDescriptor", "US", [count, 0, 16])
    with pytest.raises(UndecodablePictureError):
        decoded(make_xray(xray(), ModalityLUTSequence=[item]))


@pytest.mark.parametrize("value", [4095, 0, 2000])
def test_padding_reaches_the_edge_and_ends_in_jumps(value: int) -> None:
    pixels = np.clip(xray(), 300, 3800).astype(np.uint16)
    pixels[:, :9] = value
    pixels[20:30, 30:40] = value  # inside: whatever this is, it is no padding
    picture = decoded(make_xray(pixels, PixelPaddingValue=value))
    assert (picture.pixels[:, :9] == picture.pixels[:, 9:].min()).all()
    assert (picture.pixels[20:30, 30:40] == value).all()


def test_saturated_tissue_is_no_padding_though_it_reaches_the_edge() -> None:
    rows = np.linspace(0, 6000, 60)[:, None] + np.linspace(0, 50, 80)
    pixels = np.clip(rows, 0, 4095).astype(np.uint16)  # the lower third is burnt out
    picture = decoded(make_xray(pixels, PixelPaddingValue=4095))
    assert np.array_equal(picture.pixels, pixels)


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
@settings(max_examples=200, deadline=None)
def test_regions_are_those_that_a_walk_from_the_edge_finds(marked: NDArray[np.bool_]) -> None:
    found = surrounding_regions(marked, marked.astype(np.uint16), 0.5)
    height, width = marked.shape
    edge = [
        (row, column)
        for row in range(height)
        for column in range(width)
        if marked[row, column] and (row in (0, height - 1) or column in (0, width - 1))
    ]
    walked, waiting = set(edge), list(edge)
    while waiting:
        row, column = waiting.pop()
        for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            is_inside = 0 <= other[0] < height and 0 <= other[1] < width
            if is_inside and other not in walked and marked[other]:
                walked.add(other)
                waiting.append(other)
    expected = np.zeros_like(marked)
    for place in walked:
        expected[place] = True
    assert np.array_equal(found, expected)


def test_bits_above_the_highest_are_warned_of_across_the_picture_alone() -> None:
    everywhere = (xray(14) & 0x3FFF).astype(np.uint16)
    assert codes(decoded(make_xray(everywhere, bits_stored=12))) == ["bits_beyond_stored"]
    letters = xray()
    letters[5:9, 5:30] |= 0x1000
    assert codes(decoded(make_xray(letters))) == []
    overlay = make_xray((xray() | 0x1000).astype(np.uint16))
    overlay.add_new((0x6000, 0x0100), "US", 16)
    overlay.add_new((0x6000, 0x0102), "US", 12)
    assert codes(decoded(overlay)) == []
    signed = (xray().astype(np.int16) - 2048).astype(np.int16)  # signs fill the upper bits
    assert codes(decoded(make_xray(signed))) == []


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("is_signed", [False, True])
def test_either_photometric_gives_the_same_pixels(bits: int, is_signed: bool) -> None:
    pixels = xray(bits)
    stored = pixels.astype(np.int32) - (1 << bits >> 1) * is_signed
    width = 8 if bits == 8 else 16
    typed = stored.astype(f"i{width // 8}" if is_signed else f"u{width // 8}")
    straight = decoded(make_xray(typed, bits_stored=bits))
    turned_round = (-1 - typed) if is_signed else (((1 << bits) - 1) - typed)
    inverted = decoded(
        make_xray(
            turned_round.astype(typed.dtype),
            bits_stored=bits,
            PhotometricInterpretation="MONOCHROME1",
        )
    )
    assert np.array_equal(straight.pixels, pixels)
    assert np.array_equal(inverted.pixels, pixels)


def bordered(value: int, share: float = 0.15) -> NDArray[np.uint16]:
    """12-bit anatomy in 16 bits, with a border of another value, (H, W)."""
    pixels = xray().copy()
    width = max(1, round(share * pixels.shape[1] / 2))
    pixels[:, :width] = pixels[:, -width:] = value
    return pixels


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": "2", "RescaleIntercept": "-1000"}])
def test_a_window_is_applied_where_a_border_would_take_all_levels(
    photometric: str, rescale: dict[str, str]
) -> None:
    slope, intercept = (2, -1000) if rescale else (1, 0)
    window = {"WindowCenter": str(2048 * slope + intercept), "WindowWidth": str(4096 * slope)}
    attributes = {"PhotometricInterpretation": photometric, **window, **rescale}
    picture = decoded(make_xray(bordered(65535), bits_stored=16, **attributes))
    clipped = np.minimum(bordered(65535), 5120)
    expected = 65535 - clipped if photometric == "MONOCHROME1" else clipped
    assert np.array_equal(picture.pixels, expected)
    assert "window_applied" in codes(picture)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"WindowCenter": "32768", "WindowWidth": "65536"},  # fits all that is there
        {"WindowCenter": "60000", "WindowWidth": "4000"},  # holds few pixels
        {"WindowCenter": ["2048", "20000"], "WindowWidth": ["4096", "40000"]},  # a wide one too
        {"WindowCenter": "2048"},
        {"WindowCenter": "2048", "WindowWidth": "0"},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
def test_other_windows_are_not_applied(attributes: dict[str, Any]) -> None:
    picture = decoded(make_xray(bordered(65535), bits_stored=16, **attributes))
    assert np.array_equal(picture.pixels, bordered(65535))


@pytest.mark.parametrize(
    ("center", "width"), [(2048, 4096), (1500, 2000), (1500, 1000), (900, 300)]
)
def test_a_window_never_changes_an_xray_without_such_a_border(center: int, width: int) -> None:
    picture = decoded(make_xray(xray(), WindowCenter=str(center), WindowWidth=str(width)))
    assert np.array_equal(picture.pixels, xray())
