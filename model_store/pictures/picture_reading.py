"""Decode the bytes of any supported file to grey pixels.

The kind is read from the first bytes: file names and content types are often wrong (hospital
exports name DICOM files `.jpg` and worse). `DICM` at byte 128 precedes any other signature: the
standard leaves the bytes before it free, and files that are both TIFF and DICOM have a TIFF header
there (PS3.10, section 7.1). The pixel count is checked in the header before anything is decoded.
Precision is kept (16 bits stay 16 bits), and warnings name every change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from model_store.pictures.dicom_decoding import (
    decode_dicom,
    looks_like_dicom,
    orientation_of_dicom,
)
from model_store.pictures.jpeg_decoding import decode_jpeg
from model_store.pictures.orientation import UPRIGHT, Orientation
from model_store.pictures.picture_errors import UndecodablePictureError, UnsupportedPictureError
from model_store.pictures.picture_warnings import PictureWarning
from model_store.pictures.pixel_coding import BeforeDecoding, accept_any
from model_store.pictures.png_chunks import PNG_SIGNATURE
from model_store.pictures.png_decoding import decode_png
from model_store.pictures.tiff_decoding import decode_tiff

_TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # the last two: BigTIFF
_KNOWN_OTHER_KINDS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"\x93NUMPY", "NumPy"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"v/1\x01", "OpenEXR"),
    (b"NRRD0", "NRRD"),
    (b"ObjectType", "MetaImage"),
    (b"SIMPLE  =", "FITS"),
    (b"\x89HDF", "HDF5"),
    (b"<?xml", "XML and SVG"),
    (b"<svg", "XML and SVG"),
    (b"\0\0\1\0", "icon"),
    *(
        (b"P%d%c" % (kind, space), "PGM, PPM and PBM")
        for kind in range(1, 8)
        for space in b" \n\r\t"
    ),
)
_NIFTI_MARKS = (b"n+1\0", b"ni1\0")
_RASTERS = {"png": decode_png, "jpeg": decode_jpeg, "tiff": decode_tiff}
_SUPPORTED = "PNG, JPEG, TIFF or DICOM"


@dataclass(frozen=True)
class Picture:
    """A decoded X-ray.

    Attributes:
        pixels: grey values, (H, W), uint8 or uint16, brighter = denser (MONOCHROME2). Boxes and
            masks refer to them: pixels of DICOM are as stored, those of other files turned by EXIF.
        format: "png", "jpeg", "tiff" or "dicom".
        warnings: what was changed or looks wrong, in the order found.
        dicom: the header of a DICOM input without its pixels, for DICOM answers; else None. It
            names the patient: never log it.
        orientation: how to turn `pixels` into the upright picture for the model.
    """

    pixels: NDArray[Any]
    format: str
    warnings: tuple[PictureWarning, ...]
    dicom: Dataset | None
    orientation: Orientation = UPRIGHT

    @property
    def upright(self) -> NDArray[Any]:
        """The pixels for the model: a frontal X-ray, head up."""
        return self.orientation.apply(self.pixels)

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])


def read_picture(
    data: bytes, *, max_pixels: int, before_decoding: BeforeDecoding = accept_any
) -> Picture:
    """Decode one uploaded file.

    Args:
        data: the whole file.
        max_pixels: most pixels allowed (width times height), inclusive.
        before_decoding: called with coding and number of pixels once the header is read.

    Returns:
        The X-ray; `pixels` is contiguous, in native byte order and not shared with `data`.

    Raises:
        UndecodablePictureError: empty, truncated, damaged, or of an unknown kind.
        UnsupportedPictureError: an unsupported kind, an animation, or several pages.
        UnsupportedTransferSyntaxError: an unsupported compression of DICOM.
        TooManyPixelsError: more than `max_pixels`, by the header.
        PictureShapeError: a side shorter than 32 pixels.
    """
    kind = sniff_format(data)
    if kind == "dicom":
        found = decode_dicom(data, max_pixels, before_decoding)
        pixels = np.ascontiguousarray(found.pixels)
        return Picture(pixels, kind, found.warnings, found.header, found.orientation)
    pixels, warnings = _RASTERS[kind](data, max_pixels, before_decoding)
    return Picture(np.ascontiguousarray(pixels), kind, warnings, None)


def read_orientation(data: bytes) -> Orientation:
    """Return `Picture.orientation` without decoding pixels.

    Raises:
        UndecodablePictureError: empty, of no known kind, or a damaged DICOM header.
        UnsupportedPictureError: a known kind that is not read.
    """
    return orientation_of_dicom(data) if sniff_format(data) == "dicom" else UPRIGHT


def sniff_format(data: bytes) -> str:
    """Return "png", "jpeg", "tiff" or "dicom", judged by the first bytes alone.

    Args:
        data: the file, or its first 132 bytes at least.

    Raises:
        UndecodablePictureError: empty, or of no known kind.
        UnsupportedPictureError: a known kind that is not read.
    """
    if not data:
        raise UndecodablePictureError(f"The image is empty (0 bytes); send a {_SUPPORTED} file.")
    if data[128:132] == b"DICM":  # the 128 bytes before it are free, and may be a TIFF header
        return "dicom"
    if data.startswith(PNG_SIGNATURE):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(_TIFF_SIGNATURES):
        return "tiff"
    if looks_like_dicom(data):
        return "dicom"
    _refuse_known_kinds(data)
    raise UndecodablePictureError(f"The file is not an image that can be read; send {_SUPPORTED}.")


def _refuse_known_kinds(data: bytes) -> None:
    for signature, name in _KNOWN_OTHER_KINDS:
        if data.startswith(signature):
            raise UnsupportedPictureError(f"{name} files are not read; send {_SUPPORTED}.")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        raise UnsupportedPictureError(f"WebP files are not read; send {_SUPPORTED}.")
    if data[344:348] in _NIFTI_MARKS:
        raise UnsupportedPictureError(f"NIfTI files are not read; send {_SUPPORTED}.")
    if data[4:8] == b"ftyp":
        raise UnsupportedPictureError(
            f"HEIC, AVIF and video files are not read; send {_SUPPORTED}."
        )
