"""Ordinary X-rays in every codec and in several sizes, to measure the cost of reading them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from model_store.pictures.pixel_coding import PixelCoding

_DX = UID("1.2.840.10008.5.1.4.1.1.1.1")
NOISES = (4.0, 60.0)
"""Standard deviation of the noise in 12-bit values: low-noise detectors, and the noisiest
X-rays."""


@dataclass(frozen=True)
class HonestFile:
    """One file.

    Attributes:
        name: format and content.
        codec: compression of its pixels.
        pixels: number of pixels.
    """

    name: str
    codec: PixelCoding
    pixels: int
    data: bytes


def honest_files(side: int) -> Iterator[HonestFile]:
    """Yield a square X-ray in every format, with low and with high noise.

    Args:
        side: width and height, pixels.
    """
    for noise in NOISES:
        values = xray_12_bit(side, noise)
        content = "quiet" if noise == NOISES[0] else "noisy"
        for name, (codec, encode) in FORMATS.items():
            yield HonestFile(f"{name} {content}", codec, side * side, encode(values))


def xray_12_bit(side: int, noise: float) -> NDArray[np.uint16]:
    """Return smooth structures of the size of a chest's, with noise, (side, side), 12 bits."""
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    lungs = np.exp(-(((rows - 0.5) / 0.3) ** 2) - ((np.abs(columns - 0.5) - 0.2) / 0.12) ** 2)
    ribs = 0.1 * np.sin(60 * rows + 8 * (columns - 0.5) ** 2)
    grain = np.random.default_rng(side).normal(0.0, noise, (side, side))
    values: NDArray[np.uint16] = np.clip(3000 - 2000 * lungs + 800 * ribs + grain, 0, 4095).astype(
        np.uint16
    )
    return values


def _grey(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return (values >> 4).astype(np.uint8)


def _colour(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return np.dstack([_grey(values)] * 3)


def _run_lengths(values: NDArray[np.uint16]) -> bytes:
    runs = get_encoder(RLELossless).encode(
        values.astype("<u2").tobytes(), rows=values.shape[0], columns=values.shape[1],
        samples_per_pixel=1, number_of_frames=1, bits_allocated=16, bits_stored=12,
        pixel_representation=0, photometric_interpretation="MONOCHROME2", byteorder="<",
    )  # fmt: skip
    return _dicom(values, RLELossless, runs)


Encoder = Callable[[NDArray[np.uint16]], bytes]
"""Returns the file of 12-bit values, (side, side)."""

FORMATS: Mapping[str, tuple[PixelCoding, Encoder]] = {
    "PNG 8 bits": (PixelCoding.DEFLATE, lambda values: _saved(_grey(values), "PNG")),
    "PNG 16 bits": (PixelCoding.DEFLATE, lambda values: _saved(values, "PNG")),
    "PNG RGB": (PixelCoding.DEFLATE, lambda values: _saved(_colour(values), "PNG")),
    "TIFF 16 bits": (PixelCoding.NATIVE, lambda values: _saved(values, "TIFF")),
    "TIFF RGB": (PixelCoding.NATIVE, lambda values: _saved(_colour(values), "TIFF")),
    "TIFF RGB LZW": (
        PixelCoding.DEFLATE,
        lambda values: _saved(_colour(values), "TIFF", compression="tiff_lzw"),
    ),
    "TIFF LZW": (
        PixelCoding.DEFLATE,
        lambda values: _saved(values, "TIFF", compression="tiff_lzw"),
    ),
    "TIFF deflate": (
        PixelCoding.DEFLATE,
        lambda values: _saved(values, "TIFF", compression="tiff_adobe_deflate"),
    ),
    "JPEG": (PixelCoding.JPEG, lambda values: _saved(_grey(values), "JPEG", quality=95)),
    "JPEG progressive": (
        PixelCoding.JPEG,
        lambda values: _saved(_grey(values), "JPEG", quality=95, progressive=True),
    ),
    "JPEG RGB": (PixelCoding.JPEG, lambda values: _saved(_colour(values), "JPEG", quality=95)),
    "DICOM": (
        PixelCoding.NATIVE,
        lambda values: _dicom(values, ExplicitVRLittleEndian, None),
    ),
    "DICOM RLE": (PixelCoding.RLE, _run_lengths),
    "DICOM JPEG": (
        PixelCoding.JPEG,
        lambda values: _dicom(
            _grey(values), JPEGBaseline8Bit, _saved(_grey(values), "JPEG", quality=95)
        ),
    ),
    "DICOM JPEG Lossless": (
        PixelCoding.JPEG_LOSSLESS,
        lambda values: _dicom(
            values, JPEGLosslessSV1, imagecodecs.ljpeg_encode(values, bitspersample=12)
        ),
    ),
    "DICOM JPEG-LS": (
        PixelCoding.JPEG_LS,
        lambda values: _dicom(values, JPEGLSLossless, imagecodecs.jpegls_encode(values)),
    ),
    "DICOM JPEG 2000": (
        PixelCoding.JPEG_2000,
        lambda values: _dicom(
            values,
            JPEG2000Lossless,
            imagecodecs.jpeg2k_encode(values, reversible=True, codecformat="j2k"),
        ),
    ),
}
"""Codec and writer of each format."""


def _saved(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def _dicom(pixels: NDArray[Any], syntax: UID, frame: bytes | bytearray | None) -> bytes:
    bits = 12 if pixels.itemsize == 2 else 8
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _DX
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored = pixels.itemsize * 8, bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.PixelData = pixels.tobytes() if frame is None else encapsulate([bytes(frame)])
    dataset["PixelData"].VR = "OW" if frame is None else "OB"
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
