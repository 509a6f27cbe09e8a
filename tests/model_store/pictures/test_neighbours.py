"""Files beside those of public bug reports: colours, signs, missing ends, other kinds."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from model_store.pictures.picture_errors import (
    PictureError,
    UndecodablePictureError,
    UnsupportedPictureError,
)
from model_store.pictures.picture_reading import Picture, read_picture
from tests.dicom_files import as_file, make_xray, raw_file

LIMIT = 1_000_000


def read(data: bytes | bytearray) -> Picture:
    return read_picture(bytes(data), max_pixels=LIMIT)


def smooth(height: int = 60, width: int = 70) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.asarray(40 + rows * 2 + columns + 9 * np.sin(rows / 3), np.uint8)


def colours() -> NDArray[np.uint8]:
    grey = smooth()
    return np.dstack((grey, grey // 2, 255 - grey))


def compressed(dataset: Dataset, frame: bytes | bytearray, syntax: UID) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([bytes(frame)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return as_file(dataset)


@pytest.mark.parametrize("how", ["run lengths", "lossless JPEG", "JPEG-LS", "JPEG 2000"])
def test_colours_are_those_of_the_uncompressed_file_in_every_compression(how: str) -> None:
    plain = read(as_file(make_xray(colours(), bits_stored=8)))
    dataset = make_xray(colours(), bits_stored=8)
    if how == "run lengths":
        dataset.compress(RLELossless, generate_instance_uid=False)
        data = as_file(dataset)
    elif how == "lossless JPEG":
        frame = imagecodecs.jpeg8_encode(
            colours(), lossless=True, predictor=1, colorspace="RGB", outcolorspace="RGB"
        )
        data = compressed(dataset, frame, JPEGLosslessSV1)
    elif how == "JPEG-LS":
        data = compressed(dataset, imagecodecs.jpegls_encode(colours()), JPEGLSLossless)
    else:
        frame = imagecodecs.jpeg2k_encode(colours(), level=0, codecformat="j2k", mct=False)
        data = compressed(dataset, frame, JPEG2000Lossless)
    found = read(data)
    assert np.array_equal(found.pixels, plain.pixels)
    assert [warning.code for warning in found.warnings] == ["colour_to_grey"]


def test_colour_files_of_lossless_jpeg_and_jpeg_ls_are_read() -> None:
    wanted = np.asarray(Image.fromarray(colours()).convert("L"))
    lossless = imagecodecs.jpeg8_encode(
        colours(), lossless=True, predictor=1, colorspace="RGB", outcolorspace="RGB"
    )
    for data in (lossless, imagecodecs.jpegls_encode(colours())):
        assert np.array_equal(read(data).pixels, wanted)
    with pytest.raises(UnsupportedPictureError, match="three channels of 8 bits alone"):
        read(imagecodecs.jpegls_encode(colours().astype(np.uint16) * 257))


@pytest.mark.parametrize("is_signed", [False, True])
def test_a_jpeg_2000_codestream_knows_its_own_signs(is_signed: bool) -> None:
    values = smooth().astype(np.int16) * 12 - 1500
    dataset = make_xray(values, PixelRepresentation=int(is_signed))
    frame = imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k", bitspersample=12)
    found = read(compressed(dataset, frame, JPEG2000Lossless)).pixels.astype(int)
    assert np.array_equal(found - found.min(), values.astype(int) - values.min())


def deflated_tiff(pixels: NDArray[np.uint8], cut_bytes: int) -> bytes:
    strip = zlib.compress(pixels.tobytes())
    strip = strip[: len(strip) - cut_bytes]
    tags = {256: pixels.shape[1], 257: pixels.shape[0], 258: 8, 259: 8, 262: 1, 273: 8}
    tags |= {277: 1, 278: pixels.shape[0], 279: len(strip)}
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHL", b"II", 42, 8 + len(strip)) + strip + directory


@pytest.mark.parametrize("cut_bytes", [1, 4, 5])
def test_a_deflated_strip_without_its_checksum_is_incomplete(cut_bytes: int) -> None:
    assert np.array_equal(read(deflated_tiff(smooth(), 0)).pixels, smooth())
    with pytest.raises(UndecodablePictureError, match="checksum is wrong, or data are missing"):
        read(deflated_tiff(smooth(), cut_bytes))


def test_a_jpeg_that_states_its_height_at_the_end_is_not_called_damaged() -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG")
    data = buffer.getvalue()
    frame = data.index(b"\xff\xc0")
    height = data[frame + 5 : frame + 7]
    late = data[: frame + 5] + b"\0\0" + data[frame + 7 : -2] + b"\xff\xdc\0\x04" + height
    with pytest.raises(UnsupportedPictureError, match="height behind the picture"):
        read(late + b"\xff\xd9")


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"P5\n9 9\n255\n", "PGM"), (b"P6 9 9 255 ", "PGM"), (b"NRRD0004\n", "NRRD"),
        (b"SIMPLE  =   T", "FITS"), (b"ObjectType = Image\n", "MetaImage"),
        (b"II\xbc\x01", "JPEG XR"), (b"\x89HDF\r\n", "HDF5"), (b"v/1\x01", "OpenEXR"),
        (b"<svg xmlns=", "SVG"), (bytes(344) + b"n+1\0", "NIfTI"),
    ],
)  # fmt: skip
def test_valid_files_of_an_unread_kind_are_told_by_name(start: bytes, name: str) -> None:
    with pytest.raises(UnsupportedPictureError, match=name):
        read(start + bytes(600))


def test_what_only_begins_alike_is_no_such_file() -> None:
    for data in (b"P9\n" + bytes(600), b"Plain text about an X-ray" + bytes(600)):
        with pytest.raises(PictureError) as raised:
            read(data)
        assert isinstance(raised.value, UndecodablePictureError)


@pytest.mark.parametrize(
    ("part", "codes"),
    [("HÄNDE", ["not_a_chest"]), ("RĘKA", ["not_a_chest"]), ("TÓRAX", []), ("胸部", [])],
)
@pytest.mark.parametrize(("character_set", "encoding"), [("ISO_IR 192", "utf_8"), ("", "utf_8"),
                                                         ("GB18030", "gb18030")])  # fmt: skip
def test_code_strings_are_read_in_the_set_of_the_header(
    part: str, codes: list[str], character_set: str, encoding: str
) -> None:
    values = {
        "SpecificCharacterSet": character_set.encode(),
        "BodyPartExamined": part.encode(encoding),
    }
    found = read(raw_file(make_xray(), values)).warnings
    assert [warning.code for warning in found] == codes


@pytest.mark.parametrize("view", ["側面", "ЛЕВАЯ БОКОВАЯ"])
def test_lateral_views_are_told_in_scripts_of_their_own(view: str) -> None:
    values = {"SpecificCharacterSet": b"ISO_IR 192", "ViewPosition": view.encode()}
    found = read(raw_file(make_xray(), values)).warnings
    assert [warning.code for warning in found] == ["not_frontal_view"]


@pytest.mark.parametrize("kind", ["", ".2", ".3", ".4"])
def test_captures_of_one_frame_are_read_whatever_their_class(kind: str) -> None:
    pixels: NDArray[np.unsignedinteger] = smooth()
    if kind == ".3":
        pixels = smooth().astype(np.uint16) * 16
    elif kind == ".4":
        pixels = colours()
    capture = f"1.2.840.10008.5.1.4.1.1.7{kind}"
    bits = 12 if kind == ".3" else 8
    dataset = make_xray(pixels, bits_stored=bits, SOPClassUID=capture, NumberOfFrames="1")
    expected = np.asarray(Image.fromarray(colours()).convert("L")) if kind == ".4" else pixels
    assert np.array_equal(read(as_file(dataset)).pixels, expected)
    with pytest.raises(UnsupportedPictureError, match="several frames"):
        read(as_file(make_xray(pixels, bits_stored=bits, SOPClassUID=capture, NumberOfFrames="2")))
