"""A JPEG that libjpeg can only guess at is refused; every other one has Pillow's pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from model_store.pictures.jpeg_pixels import read_jpeg_8_bit
from model_store.pictures.picture_errors import UndecodablePictureError
from model_store.pictures.picture_reading import Picture, read_picture
from tests.dicom_files import as_file, make_xray
from tests.raster_files import encoded

END = b"\xff\xd9"


def shaded(height: int = 160, width: int = 208) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 120 + 80 * np.sin(rows / 17) + 40 * np.cos(columns / 11)
    noise = np.random.default_rng(5).normal(0, 6, (height, width))
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def coloured() -> Image.Image:
    grey = shaded()
    return Image.merge("RGB", [Image.fromarray(one) for one in (grey, grey[::-1], grey[:, ::-1])])


def decoded(data: bytes) -> Picture:
    return read_picture(data, max_pixels=1_000_000)


def damaged(data: bytes) -> dict[str, bytes]:
    """Files that Pillow opens silently."""
    half = len(data) // 2
    noise = bytearray(data)
    for place in np.random.default_rng(0).integers(half, len(data) - 2, 40):
        noise[place] = (noise[place] * 7 + 13) % 255
    return {
        "cut off, closed again": data[:half] + END,
        "a hole": data[:half] + data[half + len(data) // 8 :],
        "other bytes": bytes(noise),
    }


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("cut off, closed again", {}),
        ("a hole", {}),
        ("other bytes", {}),
        ("cut off, closed again", {"progressive": True}),
        ("a hole", {"progressive": True}),
    ],
)
def test_damage_that_pillow_overlooks_is_refused(how: str, options: dict[str, bool]) -> None:
    data = damaged(encoded(Image.fromarray(shaded()), "JPEG", quality=95, **options))[how]
    Image.open(io.BytesIO(data)).load()
    with pytest.raises(UndecodablePictureError, match="damaged"):
        decoded(data)


@pytest.mark.parametrize("how", ["cut off, closed again", "a hole"])
def test_the_same_in_cmyk_and_inside_dicom(how: str) -> None:
    cmyk = damaged(encoded(coloured().convert("CMYK"), "JPEG", quality=95))[how]
    with pytest.raises(UndecodablePictureError, match="damaged"):
        decoded(cmyk)
    whole = encoded(Image.fromarray(shaded()), "JPEG", quality=95)
    for frame, is_intact in ((whole, True), (damaged(whole)[how], False)):
        dataset = make_xray(
            Rows=160, Columns=208, BitsAllocated=8, BitsStored=8, HighBit=7,
            PixelData=encapsulate([frame]),
        )  # fmt: skip
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        if is_intact:
            expected = np.asarray(Image.open(io.BytesIO(frame)))
            assert np.array_equal(decoded(as_file(dataset)).pixels, expected)
        else:
            with pytest.raises(UndecodablePictureError):
                decoded(as_file(dataset))


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 30},
        {"quality": 95, "progressive": True},
        {"quality": 80, "subsampling": 0},
        {"quality": 80, "subsampling": 1},
        {"quality": 80, "subsampling": 2},
        {"quality": 90, "keep_rgb": True},
        {"quality": 90, "restart_marker_rows": 1},
    ],
)
def test_intact_files_have_the_pixels_that_pillow_reads(options: dict[str, int]) -> None:
    for image in (Image.fromarray(shaded()), coloured()):
        data = encoded(image, "JPEG", **options)
        expected = Image.open(io.BytesIO(data))
        pixels = read_jpeg_8_bit(data, len(expected.getbands()))
        assert pixels is not None
        assert np.array_equal(pixels.squeeze(), np.asarray(expected))
        assert np.array_equal(decoded(data).pixels, np.asarray(expected.convert("L")))


def test_bytes_left_over_before_the_end_do_no_harm() -> None:
    data = encoded(Image.fromarray(shaded()), "JPEG", quality=90)
    padded = data[:-2] + bytes(9) + END
    assert np.array_equal(decoded(padded).pixels, decoded(data).pixels)


def test_only_what_stands_before_the_pictures_own_end_is_judged() -> None:
    """A thumbnail in the header and a trailer behind the picture have ends of their own."""
    data = encoded(Image.fromarray(shaded()), "JPEG", quality=90)
    thumbnail = encoded(Image.fromarray(shaded(32, 32)), "JPEG", quality=50)
    header = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail
    padded = data[:2] + header + data[2:-2] + bytes(9) + END
    assert np.array_equal(decoded(padded + thumbnail).pixels, decoded(data).pixels)
    for broken in (damaged(data)["other bytes"], data[:2] + header + damaged(data)["a hole"][2:]):
        with pytest.raises(UndecodablePictureError, match="damaged"):
            decoded(broken + bytes(5000) + END)


def test_cmyk_is_left_to_pillow() -> None:
    data = encoded(coloured().convert("CMYK"), "JPEG", quality=95)
    expected = Image.open(io.BytesIO(data)).convert("RGB").convert("L")
    assert np.array_equal(decoded(data).pixels, np.asarray(expected))


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_rows": 2}, {"restart_marker_blocks": 3}],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_zeros_in_place_of_the_end_are_no_padding(
    options: dict[str, int], mode: str, share: float
) -> None:
    picture = Image.fromarray(shaded()) if mode == "L" else coloured()
    data = encoded(picture, "JPEG", quality=92, subsampling=2, **options)
    padded = data[:-2] + bytes(40) + END
    assert np.array_equal(decoded(padded).pixels, decoded(data).pixels)
    at = int(len(data) * share)
    with pytest.raises(UndecodablePictureError, match="damaged"):
        decoded(data[:at] + bytes(len(data) - at - 2) + END)
