"""PNG, JPEG and TIFF uploads: what survives, what is said, what is refused."""

from __future__ import annotations

import struct
import warnings as python_warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from model_store.pictures.picture_errors import (
    PictureError,
    PictureShapeError,
    TooManyPixelsError,
    UndecodablePictureError,
    UnsupportedPictureError,
)
from model_store.pictures.picture_reading import Picture, read_picture
from model_store.pictures.png_chunks import png_chunk
from tests.raster_files import SIGNATURE, encoded, hand_made_tiff, png_with, ramp

# Pillow warns about damaged EXIF data, which some of the files here hold on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

LIMIT = 1_000_000


def decoded(data: bytes) -> Picture:
    return read_picture(data, max_pixels=LIMIT)


def codes(image: Picture) -> list[str]:
    return [warning.code for warning in image.warnings]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_eight_bit_grey_is_exact(kind: str) -> None:
    image = decoded(encoded(Image.fromarray(ramp()), kind))
    assert image.format == kind.lower()
    assert image.pixels.dtype == np.uint8
    assert np.array_equal(image.pixels, ramp())
    assert image.warnings == ()
    assert (image.width, image.height) == (64, 48)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_stay_sixteen_bits(kind: str) -> None:
    pixels = (np.arange(48 * 64, dtype=np.uint16) * 21).reshape(48, 64)
    image = decoded(encoded(Image.fromarray(pixels), kind))
    assert image.pixels.dtype == np.uint16
    assert np.array_equal(image.pixels, pixels)


def test_big_endian_tiff_is_exact_and_in_native_order() -> None:
    pixels = (np.arange(48 * 64, dtype=np.uint16) * 21).reshape(48, 64)
    image = decoded(hand_made_tiff(pixels, photometric=1, big_endian=True))
    assert image.pixels.dtype == np.dtype("=u2")
    assert np.array_equal(image.pixels, pixels)


def test_white_is_zero_tiff_of_16_bits_is_inverted() -> None:
    pixels = (np.arange(48 * 64, dtype=np.uint16) * 21).reshape(48, 64)
    image = decoded(hand_made_tiff(pixels, photometric=0))
    assert np.array_equal(image.pixels, 65535 - pixels)
    assert codes(image) == ["inverted_to_monochrome2"]


def test_one_bit_becomes_0_and_255() -> None:
    pixels = ramp() > 90
    image = decoded(encoded(Image.fromarray(pixels), "PNG"))
    assert np.array_equal(image.pixels, pixels * np.uint8(255))
    assert image.warnings == ()


@pytest.mark.parametrize("filter_type", [0, 1])
def test_grey_alpha_of_16_bits_keeps_its_precision(filter_type: int) -> None:
    grey = (np.arange(40 * 40, dtype=np.uint16) * 40).reshape(40, 40)
    rows = np.stack([grey, np.full_like(grey, 65535)], axis=-1).astype(">u2")
    raw = rows.view(np.uint8).reshape(40, -1).copy()
    if filter_type == 1:  # "Sub": the difference to the byte one pixel (4 bytes) before
        raw[:, 4:] = raw[:, 4:] - raw[:, :-4].copy()
    image = decoded(png_with(4, 16, raw, 40, filter_type))
    assert np.array_equal(image.pixels, grey)
    assert image.warnings == ()


def test_grey_alpha_of_16_bits_is_composited_on_black() -> None:
    rows = np.zeros((40, 40, 2), dtype=">u2")
    rows[..., 0] = 40_000
    rows[..., 1] = 32768
    rows[0, 0, 1] = 0
    image = decoded(png_with(4, 16, rows, 40))
    assert image.pixels[0, 0] == 0
    assert image.pixels[5, 5] == 20_000
    assert codes(image) == ["alpha_composited"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_grey_stored_as_rgb_is_unchanged_and_silent(kind: str) -> None:
    grey = Image.fromarray(np.full((40, 40), 77, np.uint8))
    image = decoded(encoded(grey.convert("RGB"), kind))
    assert (image.pixels == 77).all()
    assert image.warnings == ()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_colour_becomes_luma_with_a_warning(kind: str) -> None:
    image = decoded(encoded(Image.new("RGB", (40, 40), (200, 50, 10)), kind))
    assert abs(int(image.pixels[20, 20]) - 90) <= 1  # 0.299 R + 0.587 G + 0.114 B = 90.3
    assert codes(image) == ["colour_to_grey"]


def test_cmyk_jpeg_is_read() -> None:
    image = decoded(encoded(Image.new("CMYK", (40, 40), (0, 0, 0, 155)), "JPEG"))
    assert abs(int(image.pixels[20, 20]) - 100) <= 2


def test_palette_is_looked_up() -> None:
    picture = Image.fromarray((ramp() % 4).astype(np.uint8)).convert("P")
    picture.putpalette([10, 10, 10, 90, 90, 90, 170, 170, 170, 250, 250, 250])
    image = decoded(encoded(picture, "PNG"))
    assert np.array_equal(image.pixels, np.array([10, 90, 170, 250], np.uint8)[ramp() % 4])
    assert image.warnings == ()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_put_on_black_with_a_warning(mode: str) -> None:
    picture = Image.new("L", (40, 40), 200).convert(mode)
    picture.putpixel((3, 2), (200, 0) if mode == "LA" else (200, 200, 200, 0))
    image = decoded(encoded(picture, "PNG"))
    assert image.pixels[2, 3] == 0
    assert image.pixels[20, 20] == 200
    assert codes(image) == ["alpha_composited"]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_opaque_alpha_is_exact_and_silent(mode: str) -> None:
    image = decoded(encoded(Image.fromarray(ramp()).convert(mode), "PNG"))
    assert np.array_equal(image.pixels, ramp())
    assert image.warnings == ()


def test_transparent_grey_value_of_a_16_bit_png_becomes_black() -> None:
    pixels = np.full((40, 40), 5000, np.uint16)
    pixels[0, 0] = 60000
    data = png_with(0, 16, pixels.astype(">u2"), 40)
    data = data[:33] + png_chunk(b"tRNS", struct.pack(">H", 60000)) + data[33:]
    image = decoded(data)
    assert image.pixels[0, 0] == 0
    assert image.pixels[1, 1] == 5000
    assert codes(image) == ["alpha_composited"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_orientation_is_obeyed(kind: str, orientation: int) -> None:
    upright = np.zeros((48, 64), np.uint8)
    upright[:24, :32] = 200  # bright in the upper left
    upright[:24, 32:] = 90
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),  # stored turned left, to be shown turned right
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn(upright)))
    options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    image = decoded(encoded(stored, kind, **options))
    assert image.pixels.shape == (48, 64)
    assert np.abs(image.pixels.astype(int) - upright).max() <= (20 if kind == "JPEG" else 0)
    assert codes(image) == ([] if orientation == 1 else ["orientation_applied"])


def test_kind_is_read_from_the_bytes_alone() -> None:
    assert decoded(encoded(Image.fromarray(ramp()), "JPEG")).format == "jpeg"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UndecodablePictureError),
        (b"hello, this is not an image at all", UndecodablePictureError),
        (b"\x00" * 1000, UndecodablePictureError),
        (b"GIF89a" + b"\x00" * 100, UnsupportedPictureError),
        (b"%PDF-1.7" + b"\x00" * 100, UnsupportedPictureError),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 " + b"\x00" * 100, UnsupportedPictureError),
        (b"\x00\x00\x00\x18ftypheic" + b"\x00" * 100, UnsupportedPictureError),
        (SIGNATURE, UndecodablePictureError),
        (b"\xff\xd8\xff", UndecodablePictureError),
        (b"II*\x00", UndecodablePictureError),
        (b"II*\x00\xff\xff\xff\xff", UndecodablePictureError),
    ],
)
def test_what_is_not_an_image_is_refused(data: bytes, error: type[PictureError]) -> None:
    with pytest.raises(error) as caught:
        decoded(data)
    assert caught.value.detail.endswith(".")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(UndecodablePictureError):
        decoded(data[: int(len(data) * share)])


def test_a_changed_pixel_byte_of_a_png_is_noticed() -> None:
    data = bytearray(encoded(Image.fromarray(ramp()), "PNG", compress_level=0))
    data[data.index(b"IDAT") + 200] ^= 1
    with pytest.raises(UndecodablePictureError, match="checksum"):
        decoded(bytes(data))


def test_animations_and_several_pages_are_refused() -> None:
    frames = [Image.fromarray(ramp()), Image.fromarray(ramp() + np.uint8(9))]
    for kind in ("PNG", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        with pytest.raises(UnsupportedPictureError, match="single"):
            decoded(data)


@pytest.mark.parametrize("sample_format", [2, 3])
def test_signed_and_float_tiff_is_refused(sample_format: int) -> None:
    with pytest.raises(UnsupportedPictureError):
        decoded(hand_made_tiff(ramp().astype(np.uint16), 1, sample_format=sample_format))
    with pytest.raises(UnsupportedPictureError):
        decoded(encoded(Image.fromarray(ramp().astype(np.float32)), "TIFF"))


def test_a_bomb_is_refused_by_its_header() -> None:
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    data = SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")  # no pixels at all
    with pytest.raises(TooManyPixelsError) as caught:
        decoded(data)
    assert "100000000" in caught.value.detail
    assert str(LIMIT) in caught.value.detail


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_the_pixel_limit_is_inclusive(kind: str) -> None:
    data = encoded(Image.new("L", (100, 50)), kind)
    assert read_picture(data, max_pixels=5000).width == 100
    with pytest.raises(TooManyPixelsError):
        read_picture(data, max_pixels=4999)


def test_a_tile_larger_than_any_image_is_refused() -> None:
    tiles = ((322, 60_000), (323, 60_000))
    with pytest.raises(TooManyPixelsError, match="tiles"):
        decoded(hand_made_tiff(ramp().astype(np.uint16), 1, extra_tags=tiles))


@pytest.mark.parametrize("size", [(31, 100), (100, 31), (1, 1)])
def test_thumbnails_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(PictureShapeError, match="at least 32"):
        decoded(encoded(Image.new("L", size), "PNG"))


@pytest.mark.parametrize("size", [(40, 401), (401, 40)])
def test_strips_are_refused(size: tuple[int, int]) -> None:
    """One side at most ten times the other."""
    decoded(encoded(Image.new("L", (40, 400)), "PNG"))
    with pytest.raises(PictureShapeError, match="strip"):
        decoded(encoded(Image.new("L", size), "PNG"))


def test_compressed_text_and_profiles_are_never_inflated() -> None:
    bomb = zlib.compress(b"\x00" * 50_000_000, 9)
    data = encoded(Image.fromarray(ramp()), "PNG")
    extra = png_chunk(b"zTXt", b"x\x00\x00" + bomb) + png_chunk(b"iCCP", b"x\x00\x00" + bomb)
    image = decoded(data[:33] + extra * 30 + data[33:])
    assert np.array_equal(image.pixels, ramp())


def test_a_progressive_jpeg_with_endless_scans_is_refused() -> None:
    data = encoded(Image.fromarray(ramp()), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    with pytest.raises(UndecodablePictureError, match="scans"):
        decoded(data[:-2] + data[start:-2] * 300 + data[-2:])


def test_pillows_global_settings_stay_as_they_were() -> None:
    before = (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        PngImagePlugin.MAX_TEXT_CHUNK,
    )
    decoded(encoded(Image.fromarray(ramp()), "PNG"))
    assert before == (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        PngImagePlugin.MAX_TEXT_CHUNK,
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_damage_anywhere_is_an_image_or_a_service_error(kind: str) -> None:
    generator = np.random.default_rng(7)
    data = encoded(Image.fromarray(ramp()), kind)
    for _ in range(300):
        broken = bytearray(data)
        for position in generator.integers(0, len(data), 3):
            broken[position] = generator.integers(0, 256)
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                pixels = decoded(bytes(broken)).pixels
        except PictureError:
            continue
        assert pixels.ndim == 2
        assert pixels.dtype in (np.uint8, np.uint16)
