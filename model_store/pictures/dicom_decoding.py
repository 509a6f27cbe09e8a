"""DICOM projection X-rays to grey pixels.

Computed and digital radiographs and secondary captures of a single frame are read. Everything else
is refused with a reason.

A DICOM file names a patient. No attribute value enters a message, a warning or a chained
exception here, and pydicom's own log and warnings, which quote values, are silenced.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import struct
import warnings as python_warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID

from model_store.pictures.dicom_frames import check_syntax, coding_of, decode_frame
from model_store.pictures.dicom_grey import to_monochrome2
from model_store.pictures.dicom_layout import PixelLayout, read_pixel_layout
from model_store.pictures.dicom_structure import DicomFile, read_dicom_file
from model_store.pictures.dicom_view import stored_orientation, view_warnings
from model_store.pictures.grey_conversion import DECODER_ERRORS
from model_store.pictures.orientation import Orientation
from model_store.pictures.picture_errors import (
    PictureError,
    UndecodablePictureError,
    UnsupportedPictureError,
)
from model_store.pictures.picture_size import check_picture_size
from model_store.pictures.picture_warnings import PictureWarning, PictureWarningCode
from model_store.pictures.pixel_coding import BeforeDecoding, PixelCoding, accept_any

_DICOM_ERRORS = (*DECODER_ERRORS, BytesLengthException, InvalidDicomError)
"""Exceptions that pydicom and the decoders raise on damaged files."""

_CR = "1.2.840.10008.5.1.4.1.1.1"
_DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
_DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SUPPORTED_SOP_CLASSES = frozenset(
    {
        _CR,
        _DX_FOR_PRESENTATION,
        _DX_FOR_PROCESSING,
        _SECONDARY_CAPTURE,
        f"{_SECONDARY_CAPTURE}.2",  # multi-frame grey byte, taken when it holds one frame
        f"{_SECONDARY_CAPTURE}.3",  # multi-frame grey word, likewise
        f"{_SECONDARY_CAPTURE}.4",  # multi-frame true colour, likewise
    }
)
_PYDICOM_MODULES = r"pydicom(\.|$)"
_IGNORE_PYDICOM = ("ignore", None, Warning, re.compile(_PYDICOM_MODULES), 0)
_BYTES_PER_PIXEL = 3
_MOST_DEFLATED_HEADER_BYTES = 16 << 20
_MOST_DEFLATED_BYTES = 512 << 20


class DicomPicture(NamedTuple):
    """A decoded DICOM file.

    Attributes:
        pixels: grey pixels as they are stored, (H, W) uint8 or uint16, in MONOCHROME2 order.
        warnings: what was changed or looks unsuitable.
        header: the header without pixels, for DICOM answers.
        orientation: how to turn the stored pixels upright.
    """

    pixels: NDArray[Any]
    warnings: tuple[PictureWarning, ...]
    header: Dataset
    orientation: Orientation


def looks_like_dicom(data: bytes) -> bool:
    """Return whether the bytes are a DICOM file, with or without the 128-byte preamble.

    Without one, the first element must be of group 2 or 8 in little endian, with a plausible
    value representation or length.

    Args:
        data: the file, or at least its first 132 bytes.
    """
    if data[128:132] == b"DICM":
        return True
    if len(data) < 132 or data[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    (element,) = struct.unpack_from("<H", data, 2)
    is_explicit = data[4:6].isalpha() and data[4:6].isupper()
    return element <= 0x0100 and (is_explicit or struct.unpack_from("<I", data, 4)[0] < 1024)


def decode_dicom(
    data: bytes, max_pixels: int, before_decoding: BeforeDecoding = accept_any
) -> DicomPicture:
    """Decode one DICOM file.

    Args:
        data: the file.
        max_pixels: most pixels allowed; checked on the header and on the codestream.
        before_decoding: called with coding and number of pixels; may refuse by raising.

    Raises:
        UndecodablePictureError: truncated, damaged, or its attributes contradict each other.
        UnsupportedPictureError: not a single-frame projection X-ray.
        UnsupportedTransferSyntaxError: compressed by an unsupported transfer syntax.
        TooManyPixelsError: above the limit.
        PictureShapeError: a side is too short.
    """
    _silence_pydicom()
    try:
        file = read_dicom_file(
            data,
            _BYTES_PER_PIXEL * max_pixels + _MOST_DEFLATED_HEADER_BYTES,
            lambda inflated: before_decoding(PixelCoding.DEFLATE, inflated // 2),  # 16 bits
        )
        dataset = file.header
        _check_object(file)
        layout = read_pixel_layout(dataset)
        check_picture_size(layout.columns, layout.rows, max_pixels)
        before_decoding(coding_of(file), layout.columns * layout.rows)
        stored = decode_frame(file, layout)
        if stored.dtype.kind == "i":  # a JPEG 2000 codestream states whether values are signed
            layout = dataclasses.replace(layout, is_signed=True)
        pixels, warnings = _to_grey(stored, layout, file)
        orientation = stored_orientation(dataset)
        if not orientation.is_upright:
            warnings.append(_turned())
        warnings += _suitability_warnings(dataset)
    except PictureError:
        raise
    except _DICOM_ERRORS:
        raise _damaged() from None
    return DicomPicture(pixels, tuple(warnings), dataset, orientation)


def orientation_of_dicom(data: bytes) -> Orientation:
    """Return how to turn the stored pixels upright, from the header alone.

    Raises:
        UndecodablePictureError: truncated or damaged.
    """
    _silence_pydicom()
    try:
        return stored_orientation(read_dicom_file(data, _MOST_DEFLATED_BYTES).header)
    except _DICOM_ERRORS:
        raise _damaged() from None


def _damaged() -> UndecodablePictureError:
    return UndecodablePictureError("The DICOM file is truncated or damaged; send it again in full.")


def _silence_pydicom() -> None:
    """Stop pydicom from logging and warning: both quote attribute values.

    Called for each file, because other code may reset the process's warning filters.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    if _IGNORE_PYDICOM not in python_warnings.filters:
        python_warnings.filterwarnings("ignore", module=_PYDICOM_MODULES)


def _check_object(file: DicomFile) -> None:
    header = file.header
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        if not header.get(keyword):
            setattr(header, keyword, file.header.file_meta.get(f"MediaStorage{keyword}") or UID(""))
    if str(header.SOPClassUID) not in SUPPORTED_SOP_CLASSES:
        raise UnsupportedPictureError(
            "The DICOM object is not a projection X-ray; send a computed or digital radiograph "
            "(CR, DX) or a secondary capture."
        )
    if file.pixels is None:
        raise UndecodablePictureError("The DICOM object holds no pixel data.")
    check_syntax(file.syntax)


def _to_grey(
    stored: NDArray[Any], layout: PixelLayout, file: DicomFile
) -> tuple[NDArray[Any], list[PictureWarning]]:
    if not layout.is_grey:
        return _colour_to_grey(stored)
    return to_monochrome2(stored, layout, file.header, file.is_little_endian)


def _colour_to_grey(stored: NDArray[Any]) -> tuple[NDArray[Any], list[PictureWarning]]:
    grey = np.asarray(Image.fromarray(stored.astype(np.uint8), "RGB").convert("L"))
    if bool((stored == stored[..., :1]).all()):
        return grey, []
    remark = PictureWarning(
        PictureWarningCode.COLOUR_TO_GREY, "The DICOM image has colour; it was turned to grey."
    )
    return grey, [remark]


def _suitability_warnings(dataset: Dataset) -> list[PictureWarning]:
    found: list[PictureWarning] = []
    if str(dataset.get("SOPClassUID")) == _DX_FOR_PROCESSING:
        found.append(
            PictureWarning(
                PictureWarningCode.FOR_PROCESSING_IMAGE,
                "This is a raw detector image; send the one made for presentation.",
            )
        )
    found.extend(view_warnings(dataset))
    if str(dataset.get("LossyImageCompression", "")).strip() == "01":
        found.append(
            PictureWarning(
                PictureWarningCode.LOSSY_PRECISION,
                "The DICOM image was compressed with loss of detail.",
            )
        )
    return found


def _turned() -> PictureWarning:
    return PictureWarning(
        PictureWarningCode.ORIENTATION_APPLIED,
        "The DICOM header says that the X-ray is stored turned or mirrored (PatientOrientation); "
        "it was turned upright for the model. Boxes and masks refer to the pixels as stored.",
    )
