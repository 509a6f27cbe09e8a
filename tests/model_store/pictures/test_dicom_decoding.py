"""DICOM X-rays: exact values in every storage form, and no word about the patient."""

from __future__ import annotations

import io
import logging
import struct
import warnings as python_warnings
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from model_store.pictures.codestream_header import (
    CodestreamHeader,
    Coding,
    read_codestream_header,
)
from model_store.pictures.picture_errors import (
    PictureError,
    PictureShapeError,
    TooManyPixelsError,
    UndecodablePictureError,
    UnsupportedPictureError,
    UnsupportedTransferSyntaxError,
)
from model_store.pictures.picture_reading import Picture, read_picture
from tests.dicom_files import DX, PATIENT, as_big_endian_file, as_file, make_xray, ramp_12_bit

LIMIT = 1_000_000


def decoded(dataset: Dataset) -> Picture:
    return read_picture(as_file(dataset), max_pixels=LIMIT)


def codes(image: Picture) -> list[str]:
    return [str(warning.code) for warning in image.warnings]


def test_twelve_bits_come_out_as_they_were() -> None:
    image = decoded(make_xray())
    assert image.format == "dicom"
    assert image.pixels.dtype == np.uint16
    assert np.array_equal(image.pixels, ramp_12_bit())
    assert image.warnings == ()


def test_the_header_is_kept_without_pixels() -> None:
    header = decoded(make_xray()).dicom
    assert header is not None
    assert header.Rows == 48
    assert "PixelData" not in header


def test_eight_bits_give_eight_bits() -> None:
    pixels = (ramp_12_bit() % 256).astype(np.uint8)
    image = decoded(make_xray(pixels, bits_stored=8))
    assert image.pixels.dtype == np.uint8
    assert np.array_equal(image.pixels, pixels)


def test_monochrome1_is_inverted_within_its_bits() -> None:
    image = decoded(make_xray(PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(image.pixels, 4095 - ramp_12_bit())
    assert codes(image) == ["inverted_to_monochrome2"]


def test_a_falling_rescale_slope_inverts_and_twice_is_none() -> None:
    falling = decoded(make_xray(RescaleSlope="-1", RescaleIntercept="4095"))
    assert np.array_equal(falling.pixels, 4095 - ramp_12_bit())
    both = decoded(
        make_xray(
            RescaleSlope="-1", RescaleIntercept="4095", PhotometricInterpretation="MONOCHROME1"
        )
    )
    assert np.array_equal(both.pixels, ramp_12_bit())


def test_rescale_and_window_change_nothing() -> None:
    image = decoded(
        make_xray(RescaleSlope="2", RescaleIntercept="-9", WindowCenter="50", WindowWidth="10")
    )
    assert np.array_equal(image.pixels, ramp_12_bit())


def test_signed_values_keep_their_order() -> None:
    signed = ramp_12_bit().astype(np.int16) - 2048
    image = decoded(make_xray(signed))
    assert np.array_equal(image.pixels, ramp_12_bit())


def test_values_in_the_upper_bits_are_shifted_down() -> None:
    image = decoded(make_xray((ramp_12_bit() << 4).astype(np.uint16), HighBit=15))
    assert np.array_equal(image.pixels, ramp_12_bit())


def test_overlay_planes_in_unused_bits_are_dropped() -> None:
    pixels = ramp_12_bit()
    pixels[10:14, 20:50] |= 0xA000
    image = decoded(make_xray(pixels))
    assert np.array_equal(image.pixels, ramp_12_bit())
    assert image.warnings == ()


@pytest.mark.parametrize(("photometric", "filled"), [("MONOCHROME1", 3000), ("MONOCHROME2", 400)])
def test_padding_becomes_black(photometric: str, filled: int) -> None:
    pixels = np.clip(ramp_12_bit(), 400, 3000).astype(np.uint16)
    pixels[:5] = 4095
    dataset = make_xray(pixels, PhotometricInterpretation=photometric)
    dataset.add_new("PixelPaddingValue", "US", 4095)
    image = decoded(dataset)
    black = 4095 - filled if photometric == "MONOCHROME1" else filled
    assert (image.pixels[:5] == black).all()
    assert image.pixels.min() == black


def test_a_modality_lookup_table_is_applied() -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "US", [65535 - 16 * value for value in range(4096)])
    item.ModalityLUTType = "US"
    image = decoded(make_xray(ModalityLUTSequence=[item]))
    assert np.array_equal(image.pixels, 65535 - 16 * ramp_12_bit())


def test_colour_becomes_grey_and_grey_colour_is_exact() -> None:
    grey = np.repeat((ramp_12_bit() % 256).astype(np.uint8)[..., None], 3, axis=2)
    image = decoded(make_xray(grey, bits_stored=8))
    assert np.array_equal(image.pixels, grey[..., 0])
    assert image.warnings == ()
    grey[..., 0] = 255
    assert codes(decoded(make_xray(grey, bits_stored=8))) == ["colour_to_grey"]


def test_big_endian_and_missing_preamble() -> None:
    data = as_big_endian_file(make_xray(), ramp_12_bit())
    assert np.array_equal(read_picture(data, max_pixels=LIMIT).pixels, ramp_12_bit())
    for is_implicit in (True, False):
        buffer = io.BytesIO()
        dataset = make_xray()
        del dataset.file_meta
        pydicom.dcmwrite(buffer, dataset, implicit_vr=is_implicit, little_endian=True)
        image = read_picture(buffer.getvalue(), max_pixels=LIMIT)
        assert np.array_equal(image.pixels, ramp_12_bit())
        assert image.dicom is not None


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_lossless_compression_is_exact(syntax: UID) -> None:
    dataset = make_xray()
    dataset.compress(syntax, generate_instance_uid=False)
    image = decoded(dataset)
    assert np.array_equal(image.pixels, ramp_12_bit())


def compressed(pixels: np.ndarray, syntax: UID, codestream: bytes, **attributes: Any) -> Dataset:
    dataset = make_xray(pixels, bits_stored=pixels.dtype.itemsize * 8, **attributes)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    return dataset


def test_jpeg_2000_of_16_bits_is_exact() -> None:
    pixels = (ramp_12_bit() * 16).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", no_jp2=True, irreversible=False)
    image = decoded(compressed(pixels, JPEG2000Lossless, buffer.getvalue()))
    assert np.array_equal(image.pixels, pixels)


def jpeg(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width), 90, np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_baseline_jpeg_is_read() -> None:
    pixels = np.full((48, 64), 90, np.uint8)
    dataset = compressed(pixels, JPEGBaseline8Bit, jpeg(48, 64), LossyImageCompression="01")
    image = decoded(dataset)
    assert np.abs(image.pixels.astype(int) - 90).max() <= 1
    assert codes(image) == ["lossy_precision"]


def lossless_jpeg(height: int, width: int) -> bytes:
    """A 16-bit lossless JPEG (process 14, SV1) of the constant value 32768: all differences 0."""
    frame = struct.pack(">BHHBBBB", 16, height, width, 1, 1, 0x11, 0)
    table = bytes([0, 1] + [0] * 15 + [0])  # one Huffman code, "0", for a difference of 0
    scan = bytes([1, 1, 0, 1, 0, 0])
    bits = height * width
    data = bytes(bits // 8) + (b"" if bits % 8 == 0 else bytes([(1 << (8 - bits % 8)) - 1]))
    segments = ((0xC3, frame), (0xC4, table), (0xDA, scan))
    body = b"".join(struct.pack(">BBH", 255, mark, len(s) + 2) + s for mark, s in segments)
    return b"\xff\xd8" + body + data + b"\xff\xd9"


def test_lossless_jpeg_is_read() -> None:
    dataset = compressed(np.zeros((48, 64), np.uint16), JPEGLosslessSV1, lossless_jpeg(48, 64))
    assert (decoded(dataset).pixels == 32768).all()


@pytest.mark.parametrize("size", [(480, 64), (48, 65)])
def test_a_codestream_of_another_size_is_refused_before_decoding(size: tuple[int, int]) -> None:
    dataset = compressed(np.zeros((48, 64), np.uint8), JPEGBaseline8Bit, jpeg(*size))
    with pytest.raises(UndecodablePictureError, match="size"):
        decoded(dataset)


def test_codestreams_say_what_they_are() -> None:
    assert read_codestream_header(jpeg(48, 65)) == CodestreamHeader(Coding.JPEG, 65, 48, 1, 8)
    assert read_codestream_header(lossless_jpeg(40, 33)) == CodestreamHeader(
        Coding.JPEG_LOSSLESS, 33, 40, 1, 16
    )
    buffer = io.BytesIO()
    Image.fromarray(ramp_12_bit()).save(buffer, "JPEG2000", no_jp2=True)
    assert read_codestream_header(buffer.getvalue()) == CodestreamHeader(
        Coding.JPEG_2000, 64, 48, 1, 16
    )
    for broken in (b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\x4f\xff\x51", b"\x00" * 50):
        with pytest.raises(ValueError, match="codestream"):
            read_codestream_header(broken)


def test_an_rle_frame_that_swells_is_refused() -> None:
    segment = bytes([0x81, 0]) * 60_000  # each pair of bytes becomes 128
    header = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13)
    dataset = compressed(np.zeros((48, 64), np.uint16), RLELossless, header + segment * 2)
    with pytest.raises(UndecodablePictureError):
        decoded(dataset)


def with_syntax(dataset: Dataset, syntax: str) -> bytes:
    """The file, with another transfer syntax in its header than it has."""
    data = as_file(dataset)
    old = dataset.file_meta.TransferSyntaxUID.encode()
    new = syntax.encode()
    at = data.index(old)
    old_padded, new_padded = old + b"\x00" * (len(old) % 2), new + b"\x00" * (len(new) % 2)
    patched = data[: at - 2] + struct.pack("<H", len(new_padded)) + new_padded
    return patched + data[at + len(old_padded) :]


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (MPEG2MPML, "MPEG2 Main Profile"),
        ("1.2.840.10008.1.2.4.92", "Part 2 Multi-component"),
        ("1.2.840.10008.1.2.4.61", "Spectral Selection, Hierarchical"),
        ("1.2.3.4", "a private transfer syntax"),
    ],
)
def test_other_transfer_syntaxes_are_refused_by_name(syntax: str, name: str) -> None:
    dataset = make_xray()
    dataset.PixelData = encapsulate([b"\x00" * 100])
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(UnsupportedTransferSyntaxError, match=name) as caught:
        read_picture(with_syntax(dataset, syntax), max_pixels=LIMIT)
    assert "1.2.3.4" not in caught.value.detail


@pytest.mark.parametrize("syntax", [RLELossless, JPEGBaseline8Bit, JPEGLSLossless])
def test_uncompressed_pixels_under_a_compressed_syntax_are_refused(syntax: UID) -> None:
    with pytest.raises(UndecodablePictureError, match="transfer syntax"):
        read_picture(with_syntax(make_xray(), syntax), max_pixels=LIMIT)


def test_the_pixel_limit_is_checked_on_the_header() -> None:
    dataset = make_xray(Rows=30_000, Columns=30_000)  # with pixels for 48 x 64 only
    with pytest.raises(TooManyPixelsError, match="900000000"):
        decoded(dataset)


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, UnsupportedPictureError),  # CT
        ({"NumberOfFrames": 3}, UnsupportedPictureError),
        ({"PixelData": None}, UndecodablePictureError),
        ({"Rows": None}, UndecodablePictureError),
        ({"Rows": 0}, UndecodablePictureError),
        ({"Rows": 20}, PictureShapeError),
        ({"Rows": 49}, UndecodablePictureError),  # too few pixels in the file
        ({"BitsAllocated": 32}, UnsupportedPictureError),
        ({"BitsStored": 17}, UndecodablePictureError),
        ({"HighBit": 3}, UndecodablePictureError),
        ({"PhotometricInterpretation": None}, UndecodablePictureError),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, UnsupportedPictureError),
    ],
)
def test_objects_that_do_not_fit_are_refused(
    attributes: dict[str, Any], error: type[PictureError]
) -> None:
    with pytest.raises(error):
        decoded(make_xray(**attributes))


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"ViewPosition": "LL"}, "not_frontal_view"),
        ({"BodyPartExamined": "HAND"}, "not_a_chest"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "for_processing_image"),
    ],
)
def test_unsuitable_images_draw_a_warning(attributes: dict[str, Any], code: str) -> None:
    assert codes(decoded(make_xray(**attributes))) == [code]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_are_refused(share: float) -> None:
    data = as_file(make_xray())
    with pytest.raises(PictureError):
        read_picture(data[: int(len(data) * share)], max_pixels=LIMIT)


def test_no_attribute_value_reaches_a_message_a_warning_or_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    generator = np.random.default_rng(5)
    data = as_file(make_xray(PatientBirthDate="19000101", WindowCenter="1"))
    data = data.replace(b"19000101", b"4711-4-7")  # no date: pydicom would quote it
    header_end = data.index(b"CHEST") + 200
    said = []
    with caplog.at_level(logging.DEBUG), python_warnings.catch_warnings():
        python_warnings.simplefilter("error")  # a warning that gets out fails the test
        for _ in range(400):
            broken = bytearray(data)
            for position in generator.integers(0, header_end, 2):
                broken[position] = generator.integers(0, 256)
            try:
                image = read_picture(bytes(broken), max_pixels=LIMIT)
                said += [warning.message for warning in image.warnings]
            except PictureError as error:
                assert error.__cause__ is None
                assert error.__suppress_context__ or error.__context__ is None
                said.append(error.detail)
    said += [record.getMessage() for record in caplog.records]
    assert said
    assert not [text for text in said if PATIENT in text or "4711" in text or "Muster" in text]


@pytest.mark.parametrize(
    "start",
    [
        b"II*\0",
        b"MM\0*",
        b"II+\0",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"%PDF-1.4",
        b"PK\x03\x04",
        b"BM",
        b"\x08\0\x05\0",
    ],
)
def test_dicm_decides_whatever_the_preamble_says(start: bytes) -> None:
    data = start.ljust(128, b"\0") + as_file(make_xray())[128:]
    image = read_picture(data, max_pixels=LIMIT)
    assert image.format == "dicom"
    assert np.array_equal(image.pixels, ramp_12_bit())


def test_a_dual_file_of_another_modality_is_refused_by_its_dicom_header() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(buffer, "TIFF")
    mr = make_xray(SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    data = buffer.getvalue()[:128] + as_file(mr)[128:]
    with pytest.raises(UnsupportedPictureError, match="projection"):
        read_picture(data, max_pixels=LIMIT)


def test_a_sop_class_in_the_meta_header_alone_is_enough() -> None:
    image = decoded(make_xray(SOPClassUID=None))
    assert np.array_equal(image.pixels, ramp_12_bit())
    assert image.dicom is not None
    assert image.dicom.SOPClassUID == DX


@pytest.mark.parametrize(
    "attributes",
    [
        {"SamplesPerPixel": None},
        {"BitsStored": None, "BitsAllocated": 16},
        {"HighBit": None},
        {"PixelRepresentation": None},
        {"PhotometricInterpretation": "monochrome2"},
        {"SamplesPerPixel": None, "HighBit": None, "PixelRepresentation": None},
    ],
)
def test_what_has_a_default_may_be_absent(attributes: dict[str, Any]) -> None:
    assert np.array_equal(decoded(make_xray(**attributes)).pixels, ramp_12_bit())


@pytest.mark.parametrize(
    "keyword", ["Rows", "Columns", "BitsAllocated", "PhotometricInterpretation"]
)
def test_what_has_no_default_is_named(keyword: str) -> None:
    with pytest.raises(UndecodablePictureError, match=keyword):
        nothing: Any = {keyword: None}
        decoded(make_xray(**nothing))
