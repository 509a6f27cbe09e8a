"""Every transfer syntax that is read: exact pixels, and damage that is noticed."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from model_store.pictures.codestream_header import unboxed
from model_store.pictures.dicom_frames import READ_SYNTAXES
from model_store.pictures.picture_errors import (
    PictureError,
    UndecodablePictureError,
    UnsupportedPictureError,
)
from model_store.pictures.picture_reading import Picture, read_picture
from model_store.pictures.pixel_coding import PixelCoding
from tests.dicom_files import as_file, make_xray

LIMIT = 1_000_000
ENCAPSULATED_UNCOMPRESSED = UID("1.2.840.10008.1.2.1.98")


def textured(bits: int, height: int = 120, width: int = 160) -> NDArray[np.uint16]:
    """Smooth shapes with noise, as an X-ray has: codes of many lengths. (H, W)"""
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(3).normal(0, 2, (height, width))
    values = np.sin(rows / 17) * np.cos(columns / 23) * 90 + 128 + noise
    return (np.clip(values, 0, 255) / 255 * ((1 << bits) - 1)).astype(np.uint16)


def encoded(pixels: NDArray[np.uint16], bits: int, syntax: UID) -> bytes | bytearray:
    """One frame in a compressed syntax without loss."""
    typed = pixels.astype(np.uint8) if bits <= 8 else pixels
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        predictor = 1 if syntax == JPEGLosslessSV1 else 6
        return imagecodecs.jpeg8_encode(
            typed, lossless=True, bitspersample=bits, predictor=predictor
        )
    if syntax in (JPEGLSLossless, JPEGLSNearLossless):
        return imagecodecs.jpegls_encode(typed)
    if syntax in (JPEG2000Lossless, JPEG2000):
        return imagecodecs.jpeg2k_encode(
            typed, level=0, codecformat="j2k", reversible=True, bitspersample=bits
        )
    if syntax in (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K):
        return imagecodecs.htj2k_encode(typed)
    if syntax == ENCAPSULATED_UNCOMPRESSED:
        return typed.tobytes()
    raise ValueError(syntax)


def encapsulated(
    frame: bytes | bytearray, syntax: UID, pixels: NDArray[np.uint16], bits: int, parts: int = 1
) -> Dataset:
    typed = pixels.astype(np.uint8) if bits <= 8 else pixels
    dataset = make_xray(typed, bits_stored=bits)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([bytes(frame)], fragments_per_frame=parts)
    dataset["PixelData"].is_undefined_length = True
    dataset["PixelData"].VR = "OB"
    return dataset


def decoded(dataset: Dataset) -> Picture:
    return read_picture(as_file(dataset), max_pixels=LIMIT)


COMPRESSED = [
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    ENCAPSULATED_UNCOMPRESSED,
]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: UID(syntax).name)
def test_reversible_compression_is_exact_at_every_depth(syntax: UID, bits: int) -> None:
    pixels = textured(bits)
    frame = encoded(pixels, bits, syntax)
    for parts in (1, 3):
        image = decoded(encapsulated(frame, syntax, pixels, bits, parts))
        assert np.array_equal(image.pixels, pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("size", [(120, 160), (33, 35), (40, 41)])
def test_run_lengths_are_exact_whatever_the_size(bits: int, size: tuple[int, int]) -> None:
    pixels = textured(bits, *size) & 0xFFF0  # some runs
    dataset = make_xray(pixels.astype(np.uint8) if bits <= 8 else pixels, bits_stored=bits)
    dataset.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(decoded(dataset).pixels, pixels)


def deflated(dataset: Dataset) -> bytes:
    """The same file with its data set deflated."""
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return as_file(dataset)


def test_deflated_data_sets_are_read_and_bounded() -> None:
    pixels = textured(12)
    data = deflated(make_xray(pixels))
    assert np.array_equal(read_picture(data, max_pixels=LIMIT).pixels, pixels)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    plain = as_file(make_xray(pixels))
    body = plain[plain.index(b"\x08\x00\x16\x00") :]
    bomb = packer.compress(body + bytes(50 << 20)) + packer.flush()
    meta = data[: data.index(b"1.2.840.10008.1.2.1.99")]
    start = 132 + 12 + int.from_bytes(meta[140:144], "little")
    with pytest.raises(UndecodablePictureError, match="larger"):
        read_picture(data[:start] + bomb, max_pixels=LIMIT)
    with pytest.raises(UndecodablePictureError):
        read_picture(data[:-40], max_pixels=LIMIT)


class StoppedError(Exception):
    """Raised by a listener that wants no more."""


def test_a_deflated_data_set_says_its_cost_before_much_is_inflated() -> None:
    """300 KB become 160 MB; unless it says so before, a bomb is an ordinary X-ray to its worker."""
    data = deflated(make_xray(np.zeros((8000, 10_000), np.uint16)))
    assert len(data) < 400_000
    told: list[tuple[PixelCoding, int]] = []

    def stop(coding: PixelCoding, pixels: int) -> None:
        told.append((coding, pixels))
        raise StoppedError

    with pytest.raises(StoppedError):
        read_picture(data, max_pixels=100_000_000, before_decoding=stop)
    assert told == [(PixelCoding.DEFLATE, 32 << 20)]


def test_jpeg_of_12_bits_is_read() -> None:
    pixels = textured(12)
    frame = imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=98)
    image = decoded(encapsulated(frame, JPEGExtended12Bit, pixels, 12))
    assert image.pixels.dtype == np.uint16
    assert np.abs(image.pixels.astype(int) - pixels).max() < 40


def test_frames_in_jp2_boxes_are_read() -> None:
    pixels = textured(12)
    frame = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="jp2", bitspersample=12)
    assert frame[4:8] == b"jP  "
    image = decoded(encapsulated(frame, JPEG2000Lossless, pixels, 12))
    assert np.array_equal(image.pixels, pixels)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("parts", [1, 3])
def test_fragments_without_a_delimiter_are_read_where_the_codestream_is_whole(
    syntax: UID, parts: int
) -> None:
    pixels = textured(12)
    data = as_file(encapsulated(encoded(pixels, 12, syntax), syntax, pixels, 12, parts))
    assert data.endswith(b"\xfe\xff\xdd\xe0" + bytes(4))
    assert np.array_equal(read_picture(data[:-8], max_pixels=LIMIT).pixels, pixels)
    ended = data[: data.rindex(b"\xfe\xff\x00\xe0")]  # before the last fragment
    with pytest.raises(UndecodablePictureError):
        read_picture(ended, max_pixels=LIMIT)
    for cut in (1, 4, 9, 40):
        with pytest.raises(UndecodablePictureError):
            read_picture(data[:-cut], max_pixels=LIMIT)


def test_a_codestream_of_another_codec_than_the_syntax_says_is_read() -> None:
    pixels = textured(12)
    frame = imagecodecs.jpegls_encode(pixels)
    image = decoded(encapsulated(frame, JPEGLosslessSV1, pixels, 12))
    assert np.array_equal(image.pixels, pixels)


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("syntax", [JPEG2000, JPEGLSNearLossless, HTJ2K])
def test_what_a_lossy_codec_makes_brighter_than_white_stays_white(
    syntax: UID, is_signed: bool
) -> None:
    """The codestream has 16 bits, the header says 12: 4098 would be cut to 2."""
    if is_signed and syntax != JPEG2000:
        pytest.skip("only JPEG 2000 has signs of its own here")
    rows, columns = np.mgrid[0:120, 0:160]
    values = np.where((rows // 9 + columns // 7) % 2, 4095, 0) - 2048 * is_signed
    pixels = values.astype(np.int16 if is_signed else np.uint16)
    if syntax == JPEGLSNearLossless:
        noise = np.random.default_rng(0).integers(0, 3, pixels.shape)
        pixels = np.clip(pixels.astype(int) - noise, 0, 4095).astype(np.uint16)
        frame = imagecodecs.jpegls_encode(pixels, level=5)
        stored = imagecodecs.jpegls_decode(frame)
    elif syntax == JPEG2000:
        frame = imagecodecs.jpeg2k_encode(pixels, level=60, codecformat="j2k", bitspersample=16)
        stored = imagecodecs.jpeg2k_decode(frame)
    else:
        frame = imagecodecs.htj2k_encode(pixels, reversible=False, level=0.02)
        stored = imagecodecs.htj2k_decode(unboxed(bytes(frame)))
    assert stored.max() > 4095 - 2048 * is_signed
    dataset = encapsulated(frame, syntax, pixels.astype(np.uint16), 12)
    dataset.PixelRepresentation = int(is_signed)
    found = decoded(dataset).pixels.astype(int)
    assert np.abs(found - (pixels.astype(int) + 2048 * is_signed)).max() < 1500


DAMAGEABLE = {
    "lossless": lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=12),
    "lossless of many tables": lambda pixels: imagecodecs.ljpeg_encode(pixels, bitspersample=12),
    "12 bits": lambda pixels: imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=95),
    "jpeg-ls": imagecodecs.jpegls_encode,
}


@pytest.mark.parametrize("kind", DAMAGEABLE)
@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_hole_or_an_early_end_is_refused(kind: str, place: float) -> None:
    pixels = textured(12)
    whole = DAMAGEABLE[kind](pixels)
    at = int(len(whole) * place)
    hole = whole[:at] + bytes(600) + whole[at + 600 :]
    small_hole = whole[:at] + bytes(60) + whole[at + 60 :]
    ended = whole[:at] + b"\xff\xd9"
    filled = whole[:at] + bytes(len(whole) - at - 2) + b"\xff\xd9"
    frames = [hole, whole[:at], ended, filled]
    if kind != "12 bits":  # there zeros can be codes that fit by chance
        frames.append(small_hole)
    for frame in frames:
        with pytest.raises(PictureError):
            decoded(encapsulated(frame, JPEGLosslessSV1, pixels, 12))


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("encode", [imagecodecs.htj2k_encode, imagecodecs.jpeg2k_encode])
def test_a_jpeg_2000_that_ends_early_is_refused(encode: Any, place: float) -> None:
    pixels = textured(12)
    whole = unboxed(encode(pixels))
    at = int(len(whole) * place)
    for frame in (whole[:at], whole[:at] + b"\xff\xd9", whole[:-2]):
        with pytest.raises(PictureError):
            decoded(encapsulated(frame, JPEG2000, pixels, 12))


def test_a_jpeg_2000_without_one_of_its_tile_parts_is_refused() -> None:
    pixels = textured(8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(
        buffer, "JPEG2000", no_jp2=True, tile_size=(64, 64)
    )
    whole = buffer.getvalue()
    assert np.array_equal(decoded(encapsulated(whole, JPEG2000, pixels, 8)).pixels, pixels)
    parts = [at for at in range(len(whole)) if whole[at : at + 4] == b"\xff\x90\x00\x0a"]
    assert len(parts) > 3
    missing = whole[: parts[1]] + whole[parts[2] :]
    zeroed = whole[: parts[1]] + bytes(parts[2] - parts[1]) + whole[parts[2] :]
    for frame in (zeroed, whole[:-2], whole[: parts[3]] + b"\xff\xd9", missing):
        with pytest.raises(PictureError):
            decoded(encapsulated(frame, JPEG2000, pixels, 8))


@pytest.mark.parametrize("quality", [98, 80, 50])
def test_whole_jpegs_of_12_bits_are_never_called_damaged(quality: int) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        size = tuple(generator.integers(33, 90, 2))
        values = generator.normal(generator.uniform(0, 4095), generator.uniform(1, 900), size)
        pixels = np.clip(values, 0, 4095).astype(np.uint16)
        for frame in (
            imagecodecs.jpeg8_encode(pixels, bitspersample=12, level=quality),
            imagecodecs.jpeg8_encode(pixels, bitspersample=12, lossless=True),
        ):
            decoded(encapsulated(frame, JPEGExtended12Bit, pixels, 12))


@pytest.mark.parametrize(("rows", "columns", "message"), [(240, 160, "size"), (120, 161, "size")])
@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_every_codec_is_asked_for_its_size(
    syntax: UID, rows: int, columns: int, message: str
) -> None:
    pixels = textured(12)
    dataset = encapsulated(encoded(pixels, 12, syntax), syntax, pixels, 12)
    dataset.Rows, dataset.Columns = rows, columns
    with pytest.raises(UndecodablePictureError, match=message):
        decoded(dataset)


def test_many_scans_are_refused_before_pixels_are_decoded() -> None:
    buffer = io.BytesIO()
    pixels = textured(8).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    frame = whole[:-2] + scan * 1500 + b"\xff\xd9"
    with pytest.raises(UndecodablePictureError, match="scans"):
        decoded(encapsulated(frame, JPEGBaseline8Bit, pixels.astype(np.uint16), 8))


def test_other_jpegs_are_refused_by_name() -> None:
    pixels = textured(8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG")
    frame = bytearray(buffer.getvalue())
    frame[frame.index(b"\xff\xc0") + 1] = 0xC5  # differential sequential: hierarchical
    with pytest.raises(UnsupportedPictureError, match="hierarchical"):
        decoded(encapsulated(bytes(frame), JPEGBaseline8Bit, pixels, 8))


def test_the_list_of_what_is_read_is_tested_here() -> None:
    here = {*COMPRESSED, RLELossless, DeflatedExplicitVRLittleEndian, JPEGExtended12Bit}
    elsewhere = {
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        JPEGBaseline8Bit,
    }
    assert here | elsewhere == READ_SYNTAXES


def test_only_the_codecs_of_dicom_are_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pixels = textured(12)
    files = []
    for number, syntax in enumerate(COMPRESSED):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(as_file(encapsulated(encoded(pixels, 12, syntax), syntax, pixels, 12)))
        files.append(str(path))
    run_lengths = make_xray(pixels)
    run_lengths.compress(RLELossless, generate_instance_uid=False)
    path = tmp_path / "rle.dcm"
    path.write_bytes(as_file(run_lengths))
    files.append(str(path))
    code = (
        "import sys\n"
        "from model_store.pictures.picture_reading import read_picture\n"
        "for path in sys.argv[1:]:\n"
        "    read_picture(open(path, 'rb').read(), max_pixels=10**6)\n"
        "print(sorted(name.split('.')[1] for name in sys.modules\n"
        "      if name.startswith('imagecodecs.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(
        ["_imcd", "_jpeg2k", "_jpeg8", "_jpegls", "_shared", "_shared_cython", "imagecodecs"]
    )


def test_a_private_sequence_of_many_items_is_stepped_over_or_refused_at_once() -> None:
    data = as_file(make_xray())
    at = data.index(b"\x28\x00\x02\x00US")  # a private group before the pixels' description
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 2_000_000
    head = struct.pack("<HH2sH", 0x0027, 0x1001, b"SQ", 0)
    closed = head + struct.pack("<L", len(items)) + items
    image = read_picture(data[:at] + closed + data[at:], max_pixels=LIMIT)
    assert image.pixels.shape == (48, 64)
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    opened = head + struct.pack("<L", 0xFFFFFFFF) + items + end
    with pytest.raises(UndecodablePictureError, match="more elements"):
        read_picture(data[:at] + opened + data[at:], max_pixels=LIMIT)
    public = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, len(items)) + items
    start = data.index(b"\x08\x00\x60\x00CS")
    with pytest.raises(UndecodablePictureError, match="more elements"):
        read_picture(data[:start] + public + data[start:], max_pixels=LIMIT)


def test_deep_items_are_refused() -> None:
    data = as_file(make_xray())
    start = data.index(b"\x10\x00\x10\x00PN")
    level = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    level += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(UndecodablePictureError):
        read_picture(data[:start] + level * 2000 + data[start:], max_pixels=LIMIT)
