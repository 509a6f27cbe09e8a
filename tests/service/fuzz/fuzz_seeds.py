"""One small honest file of every format and of every DICOM transfer syntax that is read."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import pydicom.uid as uids
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder

from tests.dicom_files import as_big_endian_file, as_file, make_xray
from tests.raster_files import encoded, hand_made_tiff, png_with, ramp

HEIGHT, WIDTH = 48, 64


def seeds() -> dict[str, bytes]:
    """Return all files by name."""
    return _png() | _jpeg() | _tiff() | _dicom()


def grey() -> NDArray[np.uint8]:
    """A ramp with noise, so that no codec finds it empty; (H, W)."""
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH))
    return (ramp(HEIGHT, WIDTH).astype(np.int64) // 2 + noise).astype(np.uint8)


def deep() -> NDArray[np.uint16]:
    """The same with 12 bits; (H, W)."""
    return grey().astype(np.uint16) << np.uint16(4)


def _png() -> dict[str, bytes]:
    image, colour = Image.fromarray(grey()), Image.fromarray(np.dstack([grey()] * 3))
    alpha = Image.fromarray(np.dstack([grey(), np.full_like(grey(), 200)]), "LA")
    two_bits = np.packbits(np.tile(np.arange(64, dtype=np.uint8) % 2, (48, 2)), axis=1)
    return {
        "grey.png": encoded(image, "PNG"),
        "deep.png": encoded(Image.fromarray(deep()), "PNG"),
        "colour.png": encoded(colour, "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "palette.png": encoded(colour.convert("P"), "PNG", transparency=3),
        "two_bits.png": png_with(0, 2, two_bits, WIDTH),
        "bits.png": encoded(image.convert("1"), "PNG"),
        "text.png": encoded(image, "PNG", dpi=(72, 72), icc_profile=b"x" * 64),
    }


def _jpeg() -> dict[str, bytes]:
    image, colour = Image.fromarray(grey()), Image.fromarray(np.dstack([grey()] * 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "grey.jpg": encoded(image, "JPEG"),
        "colour.jpg": encoded(colour, "JPEG"),
        "progressive.jpg": encoded(colour, "JPEG", progressive=True),
        "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG"),
        "turned.jpg": encoded(image, "JPEG", exif=exif),
        "restarts.jpg": encoded(image, "JPEG", restart_marker_blocks=4),
    }


def _tiff() -> dict[str, bytes]:
    image, colour = Image.fromarray(grey()), Image.fromarray(np.dstack([grey()] * 3))
    kinds = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    files = {f"{kind}.tif": encoded(image, "TIFF", compression=kind) for kind in kinds}
    return files | {
        "deep.tif": encoded(Image.fromarray(deep()), "TIFF"),
        "colour.tif": encoded(colour, "TIFF", compression="tiff_lzw"),
        "palette.tif": encoded(colour.convert("P"), "TIFF"),
        "bits.tif": encoded(image.convert("1"), "TIFF", compression="packbits"),
        "big.tif": encoded(image, "TIFF", big_tiff=True),
        "big_endian.tif": hand_made_tiff(deep(), 0, big_endian=True),
        "tiled.tif": imagecodecs_tiff(deep()),
    }


def imagecodecs_tiff(pixels: NDArray[Any]) -> bytes:
    """Return a TIFF of one tile, written by hand."""
    padded = np.zeros((64, 64), pixels.dtype)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    data = padded.astype("<u2").tobytes()
    tags = (
        (256, WIDTH), (257, HEIGHT), (258, 16), (259, 1), (262, 1), (277, 1),
        (322, 64), (323, 64), (324, 8), (325, len(data)),
    )  # fmt: skip
    directory = len(tags).to_bytes(2, "little")
    for tag, value in tags:
        directory += tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
    return b"II*\0" + (8 + len(data)).to_bytes(4, "little") + data + directory + bytes(4)


def _dicom() -> dict[str, bytes]:
    shallow = make_xray(grey(), bits_stored=8)
    files = {
        "explicit.dcm": as_file(make_xray(deep())),
        "big_endian.dcm": as_big_endian_file(make_xray(deep()), deep()),
        "shallow.dcm": as_file(shallow),
        "colour.dcm": as_file(make_xray(np.dstack([grey()] * 3), bits_stored=8)),
        "no_preamble.dcm": as_file(make_xray(deep()))[132:],
    }
    for name, syntax in (
        ("implicit", uids.ImplicitVRLittleEndian),
        ("deflated", uids.DeflatedExplicitVRLittleEndian),
    ):
        xray = make_xray(deep())
        xray.file_meta.TransferSyntaxUID = syntax
        files[f"{name}.dcm"] = as_file(xray)
    for syntax, pixels, frame in _frames():
        xray = make_xray(pixels, bits_stored=8 if pixels.itemsize == 1 else 12)
        xray.file_meta.TransferSyntaxUID = syntax
        xray.PixelData = encapsulate([frame])
        xray["PixelData"].VR = "OB"
        files[f"{syntax.keyword}.dcm"] = as_file(xray)
    return files


def _frames() -> list[tuple[uids.UID, NDArray[Any], bytes]]:
    shallow, values = grey(), deep()
    jpeg = encoded(Image.fromarray(shallow), "JPEG")
    lossless = imagecodecs.ljpeg_encode(values, bitspersample=12)
    runs = io.BytesIO(
        get_encoder(uids.RLELossless).encode(
            values.astype("<u2").tobytes(), rows=HEIGHT, columns=WIDTH, samples_per_pixel=1,
            number_of_frames=1, bits_allocated=16, bits_stored=12, pixel_representation=0,
            photometric_interpretation="MONOCHROME2", byteorder="<",
        )
    ).getvalue()  # fmt: skip
    return [
        (uids.RLELossless, values, runs),
        (uids.JPEGBaseline8Bit, shallow, jpeg),
        (uids.JPEGExtended12Bit, values, bytes(imagecodecs.jpeg8_encode(values, bitspersample=12))),
        (uids.JPEGLossless, values, bytes(lossless)),
        (uids.JPEGLosslessSV1, values, bytes(lossless)),
        (uids.JPEGLSLossless, values, bytes(imagecodecs.jpegls_encode(values))),
        (uids.JPEGLSNearLossless, values, bytes(imagecodecs.jpegls_encode(values, level=2))),
        (uids.JPEG2000Lossless, values, _jpeg_2000(values, reversible=True)),
        (uids.JPEG2000, values, _jpeg_2000(values, reversible=False, level=40)),
        (uids.HTJ2KLossless, values, bytes(imagecodecs.htj2k_encode(values, reversible=True))),
    ]


def _jpeg_2000(values: NDArray[np.uint16], **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, codecformat="j2k", **options))
