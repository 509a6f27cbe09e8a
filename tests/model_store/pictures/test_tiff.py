"""TIFF in every depth, byte order and container: exact, or refused with the true reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store.pictures.picture_errors import (
    PictureError,
    TooManyPixelsError,
    UndecodablePictureError,
    UnsupportedPictureError,
)
from model_store.pictures.picture_reading import Picture, read_picture

LIMIT = 1_000_000
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ramp(bits: int, height: int = 45, width: int = 61) -> NDArray[np.uint16]:
    values = np.add.outer(np.arange(height) * 37, np.arange(width) * 11)
    return (values % (1 << bits)).astype(np.uint16)


def packed(pixels: NDArray[Any], bits: int, order: str) -> bytes:
    """Rows of values of any depth, each from a whole byte on."""
    if bits in (8, 16):
        return pixels.astype(f"{order}u{bits // 8}").tobytes()
    rows = []
    for row in pixels.reshape(len(pixels), -1):
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return b"".join(rows)


def tiff(
    blocks: list[bytes],
    size: tuple[int, int],
    bits: int = 8,
    *,
    order: str = "<",
    is_big: bool = False,
    tags: dict[int, Any] | None = None,
    rows: int | None = None,
) -> bytes:
    """A file of strips (tiles where `tags` say so). A tag of None is left out."""
    height, width = size
    start = 16 if is_big else 8
    starts = [start + sum(map(len, blocks[:number])) for number in range(len(blocks))]
    values: dict[int, Any] = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 1,
        273: starts,
        277: 1,
        278: height if rows is None else rows,
        279: [len(block) for block in blocks],
    }
    values |= tags or {}
    body = b"".join(blocks)
    position = start + len(body)
    word, link, room = ("Q", "Q", 8) if is_big else ("L", "L", 4)
    entries, extra = b"", b""
    present = sorted((tag, value) for tag, value in values.items() if value is not None)
    for tag, value in present:
        if isinstance(value, bytes):
            kind, count, raw = 7, len(value), value
        else:
            numbers = value if isinstance(value, list) else [value]
            kind, count = 4, len(numbers)
            raw = struct.pack(f"{order}{count}L", *numbers)
        if len(raw) <= room:
            inline = raw.ljust(room, b"\0")
        else:
            inline = struct.pack(order + link, position + len(extra))
            extra += raw
        entries += struct.pack(f"{order}HH{word}", tag, kind, count) + inline
    count_bytes = struct.pack(order + ("Q" if is_big else "H"), len(present))
    directory = position + len(extra)
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}H", 43 if is_big else 42)
    head += struct.pack(f"{order}HH", 8, 0) if is_big else b""
    head += struct.pack(order + link, directory)
    return head + body + extra + count_bytes + entries + bytes(room)


def decoded(data: bytes) -> Picture:
    return read_picture(data, max_pixels=LIMIT)


def codes(picture: Picture) -> list[str]:
    return [str(warning.code) for warning in picture.warnings]


def as_read(pixels: NDArray[np.uint16], bits: int) -> NDArray[Any]:
    """What comes out: below 8 bits stretched to 0..255, else as stored."""
    if bits < 8:
        return np.round(pixels * (255 / ((1 << bits) - 1))).astype(np.uint8)
    return pixels.astype(np.uint8 if bits == 8 else np.uint16)


COMPRESSIONS = {
    1: lambda raw: raw,
    5: imagecodecs.lzw_encode,
    8: zlib.compress,
    32946: zlib.compress,
    32773: imagecodecs.packbits_encode,
}


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_grey_is_exact(bits: int, order: str, is_big: bool, compression: int) -> None:
    pixels = ramp(bits)
    raw = packed(pixels, bits, order)
    row_bytes = len(raw) // len(pixels)
    strips = [raw[at : at + 20 * row_bytes] for at in range(0, len(raw), 20 * row_bytes)]
    blocks = [COMPRESSIONS[compression](strip) for strip in strips]
    for photometric, expected in ((1, pixels), (0, (1 << bits) - 1 - pixels)):
        data = tiff(
            blocks,
            pixels.shape,
            bits,
            order=order,
            is_big=is_big,
            tags={259: compression, 262: photometric},
            rows=20,
        )
        picture = decoded(data)
        assert np.array_equal(picture.pixels, as_read(expected, bits))
        assert picture.pixels.dtype.isnative
        assert codes(picture) == [["inverted_to_monochrome2"], []][photometric]


@pytest.mark.parametrize("bits", [1, 8, 12, 16])
@pytest.mark.parametrize("compression", [1, 8, 32773])
def test_reversed_bits_are_read(bits: int, compression: int) -> None:
    pixels = ramp(bits)
    block = COMPRESSIONS[compression](packed(pixels, bits, "<")).translate(REVERSED)
    data = tiff([block], pixels.shape, bits, tags={259: compression, 266: 2})
    assert np.array_equal(decoded(data).pixels, as_read(pixels, bits))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_differences_along_rows_are_undone(bits: int, order: str) -> None:
    pixels = ramp(bits)
    differences = np.diff(pixels, axis=1, prepend=np.uint16(0))
    block = zlib.compress(packed(differences & ((1 << bits) - 1), bits, order))
    data = tiff([block], pixels.shape, bits, order=order, tags={259: 8, 317: 2})
    assert np.array_equal(decoded(data).pixels, pixels)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_tiles_are_put_together(bits: int) -> None:
    pixels = ramp(bits)
    padded = np.pad(pixels, ((0, 64 - 45), (0, 64 - 61)))
    tiles = [
        packed(padded[top : top + 16, left : left + 32], bits, "<")
        for top in range(0, 48, 16)
        for left in range(0, 64, 32)
    ]
    places = {322: 32, 323: 16, 273: None, 278: None, 279: None}
    start = [8 + sum(map(len, tiles[:number])) for number in range(len(tiles))]
    data = tiff(
        tiles, pixels.shape, bits, tags={**places, 324: start, 325: [len(t) for t in tiles]}
    )
    assert np.array_equal(decoded(data).pixels, pixels)


@pytest.mark.parametrize("options", [{"compression": "tiff_lzw"}, {"compression": "zstd"}, {}])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_what_pillow_writes_is_read_as_pillow_reads_it(mode: str, options: dict[str, Any]) -> None:
    if options.get("compression") == "zstd" and mode not in ("1", "L", "I;16"):
        pytest.skip("rare compressions are read as grey alone")
    grey = Image.fromarray(ramp(16 if mode == "I;16" else 8).astype("u2" if "16" in mode else "u1"))
    image = grey if mode in ("L", "I;16") else grey.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", **options)
    expected: Image.Image = Image.open(io.BytesIO(buffer.getvalue()))
    if mode != "I;16":
        expected = expected.convert("L" if mode in ("1", "L", "LA") else "RGB").convert("L")
    assert np.array_equal(decoded(buffer.getvalue()).pixels, np.asarray(expected))


def saved(image: Image.Image, compression: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression=compression)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_rare_compressions_are_read(mode: str) -> None:
    image = Image.fromarray(ramp(8).astype(np.uint8)).convert(mode)
    found = decoded(saved(image, "tiff_lzma")).pixels
    assert np.array_equal(found, np.asarray(image.convert("L")))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_codes_are_an_unread_kind(compression: str) -> None:
    """What is damaged in them comes out white, and nothing says so."""
    image = Image.fromarray(ramp(8).astype(np.uint8)).convert("1")
    with pytest.raises(UnsupportedPictureError, match="CCITT"):
        decoded(saved(image, compression))


@pytest.mark.parametrize("compression", [5, 8, 32946, 32773])
def test_a_last_strip_of_full_height_is_read(compression: int) -> None:
    pixels = ramp(8)  # 45 rows in strips of 20
    raw = packed(pixels, 8, "<") + bytes(15 * pixels.shape[1])
    size = 20 * pixels.shape[1]
    blocks = [COMPRESSIONS[compression](raw[at : at + size]) for at in range(0, len(raw), size)]
    data = tiff(blocks, pixels.shape, 8, tags={259: compression}, rows=20)
    assert np.array_equal(decoded(data).pixels, pixels)


@pytest.mark.parametrize("padding_bytes", [1, 2, 3, 60])
def test_zeros_after_run_lengths_are_padding(padding_bytes: int) -> None:
    pixels = ramp(8)
    block = bytes(imagecodecs.packbits_encode(packed(pixels, 8, "<"))) + bytes(padding_bytes)
    assert np.array_equal(decoded(tiff([block], pixels.shape, 8, tags={259: 32773})).pixels, pixels)


def test_a_deflated_strip_that_holds_far_more_than_its_rows_is_damaged() -> None:
    """Its end is not reached, and so nobody reads its checksum."""
    pixels = ramp(8)
    block = zlib.compress(packed(pixels, 8, "<") + bytes(500_000))
    with pytest.raises(UndecodablePictureError, match="checksum is wrong, or data are missing"):
        decoded(tiff([block], pixels.shape, 8, tags={259: 8}))


def jpeg_tiff(mode: str = "L", quality: int = 95) -> bytes:
    pixels = ramp(8, 120, 160).astype(np.uint8) // 3 + 40
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "TIFF", compression="jpeg", quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_in_tiff_is_read_as_pillow_reads_it(mode: str) -> None:
    data = jpeg_tiff(mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
    assert np.abs(decoded(data).pixels - expected).max() <= 1


def test_jpeg_of_12_bits_in_tiff_is_read() -> None:
    pixels = ramp(12, 120, 160) // 4 + 1000
    stream = imagecodecs.jpeg8_encode(pixels.astype(np.uint16), bitspersample=12, level=98)
    picture = decoded(tiff([bytes(stream)], pixels.shape, 12, tags={259: 7}))
    assert np.abs(picture.pixels.astype(int) - pixels).max() < 60


def test_a_damaged_jpeg_in_tiff_is_refused() -> None:
    data = jpeg_tiff()
    start = data.index(b"\xff\xda")
    for at, end in ((start + 400, start + 700), (start + 200, len(data) // 2)):
        with pytest.raises(UndecodablePictureError):
            decoded(data[:at] + bytes(end - at) + data[end:])


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_strip_cut_short_is_refused(compression: int) -> None:
    pixels = ramp(8)
    block = COMPRESSIONS[compression](pixels.astype(np.uint8).tobytes())
    with pytest.raises(UndecodablePictureError):
        decoded(tiff([block[: len(block) * 2 // 3]], pixels.shape, tags={259: compression}))


def test_a_wrong_checksum_of_deflate_is_refused() -> None:
    pixels = ramp(8)
    block = zlib.compress(pixels.astype(np.uint8).tobytes(), 0)
    broken = bytearray(block)
    broken[len(block) // 2] ^= 4
    with pytest.raises(UndecodablePictureError, match="checksum"):
        decoded(tiff([bytes(broken)], pixels.shape, tags={259: 8}))


@pytest.mark.parametrize("hole", [{273: [8, 0]}, {279: [20 * 61, 0]}, {273: [8]}, {279: None}])
def test_strips_that_are_not_there_are_refused(hole: dict[int, Any]) -> None:
    pixels = ramp(8, 40).astype(np.uint8).tobytes()
    blocks = [pixels[: 20 * 61], pixels[20 * 61 :]]
    with pytest.raises(UndecodablePictureError, match="missing"):
        decoded(tiff(blocks, (40, 61), tags=hole, rows=20))


@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16])
def test_without_a_photometric_interpretation_nothing_is_guessed(bits: int) -> None:
    pixels = ramp(bits)
    data = tiff([packed(pixels, bits, "<")], pixels.shape, bits, tags={262: None})
    with pytest.raises(UndecodablePictureError, match="PhotometricInterpretation"):
        decoded(data)


@pytest.mark.parametrize(
    ("tags", "bits", "message"),
    [
        ({259: 34712}, 8, "JPEG 2000"),
        ({259: 6}, 8, "JPEG of the old kind"),
        ({259: 34887}, 8, "LERC"),
        ({259: 777}, 8, "scheme 777"),
        ({339: 2}, 16, "signed"),
        ({339: 3}, 32, "floating"),
        ({}, 32, "32 bits"),
        ({262: 8}, 8, "colours"),
        ({262: 2, 277: 3}, 12, "colours of 12 bits"),
        ({317: 3}, 8, "predictor"),
    ],
)
def test_valid_files_of_other_kinds_are_refused_with_the_true_reason(
    tags: dict[int, Any], bits: int, message: str
) -> None:
    pixels = bytes(45 * 61 * bits // 8 * 3)
    if 277 in tags:
        tags = {**tags, 258: [bits] * 3}
    with pytest.raises(UnsupportedPictureError, match=message):
        decoded(tiff([pixels], (45, 61), bits, tags=tags))


@pytest.mark.parametrize("kind", [5, 12, 16])
def test_a_huge_tag_that_nobody_needs_is_stepped_over(kind: int) -> None:
    pixels = ramp(8)
    data = bytearray(tiff([pixels.astype(np.uint8).tobytes()], pixels.shape, tags={65000: 1}))
    entry = data.index(struct.pack("<HHL", 65000, 4, 1))
    data[entry : entry + 12] = struct.pack("<HHLL", 65000, kind, 7_800_000, 8)
    assert np.array_equal(decoded(bytes(data)).pixels, pixels)


@pytest.mark.parametrize("tag", [256, 258, 273, 320])
def test_a_needed_tag_with_implausibly_many_values_is_refused(tag: int) -> None:
    pixels = ramp(8)
    data = bytearray(tiff([pixels.astype(np.uint8).tobytes()], pixels.shape, tags={320: 1}))
    entry = next(
        at for at in range(len(data) - 8) if data[at : at + 4] == struct.pack("<HH", tag, 4)
    )
    data[entry + 4 : entry + 8] = struct.pack("<L", 7_800_000)
    with pytest.raises(UndecodablePictureError, match="values"):
        decoded(bytes(data))


def test_a_second_page_is_refused() -> None:
    pages = [Image.fromarray(ramp(8).astype(np.uint8))] * 2
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(UnsupportedPictureError, match="several pages"):
        decoded(buffer.getvalue())


def test_huge_tiles_are_refused_before_memory_is_given() -> None:
    tags = {322: 65_520, 323: 65_520, 324: 8, 325: 100, 273: None, 278: None, 279: None}
    with pytest.raises(TooManyPixelsError, match="tiles"):
        decoded(tiff([bytes(100)], (45, 61), tags=tags))


@pytest.mark.parametrize("is_big", [False, True])
def test_no_mutant_raises_anything_else(is_big: bool) -> None:
    generator = np.random.default_rng(11)
    pixels = ramp(16)
    block = zlib.compress(pixels.tobytes())
    whole = tiff([block], pixels.shape, 16, is_big=is_big, tags={259: 8, 317: 2})
    for _ in range(600):
        broken = bytearray(whole)
        for position in generator.integers(0, len(whole), 3):
            broken[position] = generator.integers(0, 256)
        try:
            decoded(bytes(broken[: generator.integers(10, len(whole) + 1)]))
        except PictureError as error:
            assert error.__cause__ is None
