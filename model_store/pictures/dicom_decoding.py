"""DICOM projection X-rays to grey pixels.

Read are single-frame computed and digital radiographs and secondary captures, uncompressed or
compressed in a way for which pydicom has a decoder: RLE by itself, JPEG baseline and JPEG 2000
through Pillow, JPEG-LS through pyjpegls, JPEG lossless and 12-bit JPEG when `python-gdcm` is
installed. Everything else is refused with 415.

A DICOM file names a patient. No attribute value enters a message, a warning or a chained
exception here, and pydicom's own log and warnings, which quote values, are silenced.
"""

from __future__ import annotations

import logging
import re
import struct
import warnings as python_warnings
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from model_store.pictures.codestream_size import read_codestream_size
from model_store.pictures.dicom_pixels import PixelLayout, read_pixel_layout, to_monochrome2
from model_store.pictures.jpeg_pixels import read_jpeg
from model_store.pictures.picture_errors import (
    UndecodablePictureError,
    UnsupportedPictureError,
    UnsupportedTransferSyntaxError,
)
from model_store.pictures.picture_size import check_picture_size
from model_store.pictures.picture_warnings import PictureWarning, PictureWarningCode
from model_store.pictures.raster_decoding import DECODER_ERRORS
from model_store.pictures.rle_expansion import check_rle_expansion

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
    }
)
_PYDICOM_ERRORS = (BytesLengthException, InvalidDicomError)  # no subclasses of ValueError
_PYDICOM_MODULES = r"pydicom(\.|$)"
_IGNORE_PYDICOM = ("ignore", None, Warning, re.compile(_PYDICOM_MODULES), 0)
_FRONTAL_VIEWS = frozenset({"AP", "PA", "AP_ERECT", "PA_ERECT", "AP SUPINE", "ANTEROPOSTERIOR"})
_CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "TORAX")
_SUPPORTED_SYNTAXES = (
    "uncompressed (not deflated), RLE, JPEG, JPEG-LS and JPEG 2000, as far as decoders are "
    "installed; send the image uncompressed, or as PNG with 16 bits"
)


_UNDEFINED_LENGTH = 0xFFFFFFFF  # PS3.5, section 7.1.1: encapsulated frames


def looks_like_dicom(data: bytes) -> bool:
    """Returns whether the bytes are a DICOM file, with or without the 128-byte preamble.

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
    data: bytes, max_pixels: int
) -> tuple[NDArray[Any], tuple[PictureWarning, ...], Dataset]:
    """Decodes one DICOM file.

    Args:
        data: the file.
        max_pixels: most pixels allowed; checked on the header and on the codestream.

    Returns:
        Grey pixels (H, W) uint8 or uint16 in MONOCHROME2 order; what was changed or looks
        unsuitable; and the header without pixels, for a DICOM segmentation.

    Raises:
        UndecodablePictureError: truncated, damaged, or its attributes contradict each other.
        UnsupportedPictureError: not a single-frame projection X-ray.
        UnsupportedTransferSyntaxError: compressed in a way that is not read.
        TooManyPixelsError: above the limit.
        PictureShapeError: a side is too short.
    """
    _silence_pydicom()
    try:
        dataset = _read(data)
        _check_object(dataset)
        layout = read_pixel_layout(dataset)
        check_picture_size(layout.columns, layout.rows, max_pixels)
        stored = _decode_pixels(dataset, layout)
        pixels, warnings = _to_grey(stored, layout, dataset)
        warnings += _suitability_warnings(dataset)
        del dataset.PixelData
    except (*DECODER_ERRORS, *_PYDICOM_ERRORS):
        raise UndecodablePictureError(
            "The DICOM file is truncated or damaged; send it again in full."
        ) from None
    return pixels, tuple(warnings), dataset


def _silence_pydicom() -> None:
    """Stops pydicom from logging and warning: both quote attribute values.

    Done at each call, because others may reset the process's warning filters.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    if _IGNORE_PYDICOM not in python_warnings.filters:
        python_warnings.filterwarnings("ignore", module=_PYDICOM_MODULES)


def _read(data: bytes) -> Dataset:
    _refuse_deflated(data)
    dataset = pydicom.dcmread(BytesIO(data), force=True)
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    dataset.file_meta = meta
    if "TransferSyntaxUID" not in meta:
        meta.TransferSyntaxUID = _native_syntax(*dataset.original_encoding)
    return dataset


def _refuse_deflated(data: bytes) -> None:
    """Refuses deflated datasets before pydicom inflates them whole, without any limit."""
    stream = BytesIO(data)
    read_preamble(stream, force=True)
    meta = read_dataset(
        stream,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=_is_beyond_file_meta,
    )
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise _unsupported_syntax()


def _is_beyond_file_meta(tag: BaseTag, representation: str | None, length: int) -> bool:
    return tag >> 16 != 0x0002


def _native_syntax(is_implicit: bool | None, is_little_endian: bool | None) -> UID:
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _check_object(dataset: Dataset) -> None:
    if str(dataset.get("SOPClassUID", "")) not in SUPPORTED_SOP_CLASSES:
        raise UnsupportedPictureError(
            "The DICOM object is not a projection X-ray; send a computed or digital radiograph "
            "(CR, DX) or a secondary capture."
        )
    if "PixelData" not in dataset:
        raise UndecodablePictureError("The DICOM object holds no pixel data.")
    raw = dataset.get_item("PixelData")
    stated = getattr(raw, "length", None)  # gone once the element was converted
    if stated is not None and stated != _UNDEFINED_LENGTH and stated != len(raw.value):
        raise UndecodablePictureError(
            f"The DICOM pixel data state {stated} bytes and hold {len(raw.value)}; "
            "send the file again in full."
        )


def _decode_pixels(dataset: Dataset, layout: PixelLayout) -> NDArray[Any]:
    """Returns (H, W) or (H, W, 3) with unused bits left as they are."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise _unsupported_syntax() from None
    if not decoder.is_available:
        raise _unsupported_syntax()
    if syntax.is_encapsulated:
        _check_frame(get_frame(dataset.PixelData, 0, number_of_frames=1), syntax, layout)
    options: Any = {"correct_unused_bits": False}  # pydicom's annotation of **kwargs is wrong
    array, _ = decoder.as_array(dataset, index=0, **options)
    if array.shape[:2] != (layout.rows, layout.columns):
        raise UndecodablePictureError("The DICOM pixel data contradict the header's size.")
    return array


def _check_frame(frame: bytes, syntax: UID, layout: PixelLayout) -> None:
    """Refuses a compressed frame whose own size is not the header's, before it is decoded.

    Raises:
        UndecodablePictureError: the codestream has another width or height.
        ValueError: it has no readable size, or its runs expand beyond the image.
    """
    if syntax == RLELossless:
        check_rle_expansion(frame, layout.rows * layout.columns)
    elif read_codestream_size(frame) != (layout.columns, layout.rows):
        raise UndecodablePictureError("The DICOM pixel data contradict the header's size.")
    elif syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        read_jpeg(frame, 1)  # pydicom's decoders do not notice what is missing


def _to_grey(
    stored: NDArray[Any], layout: PixelLayout, dataset: Dataset
) -> tuple[NDArray[Any], list[PictureWarning]]:
    if not layout.is_grey:
        return _colour_to_grey(stored)
    pixels, is_inverted = to_monochrome2(stored, layout, dataset)
    if not is_inverted:
        return pixels, []
    remark = PictureWarning(
        PictureWarningCode.INVERTED_TO_MONOCHROME2,
        "The DICOM image stores white as its lowest value; the grey values were inverted.",
    )
    return pixels, [remark]


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
    view = str(dataset.get("ViewPosition", "") or "").strip().upper()
    if view and view not in _FRONTAL_VIEWS:
        found.append(
            PictureWarning(
                PictureWarningCode.NOT_FRONTAL_VIEW,
                "The DICOM header names a view that is not frontal; the mask may be meaningless.",
            )
        )
    part = str(dataset.get("BodyPartExamined", "") or "").strip().upper()
    if part and not any(word in part for word in _CHEST_WORDS):
        found.append(
            PictureWarning(
                PictureWarningCode.NOT_A_CHEST,
                "The DICOM header names a body part other than the chest.",
            )
        )
    if str(dataset.get("LossyImageCompression", "")).strip() == "01":
        found.append(
            PictureWarning(
                PictureWarningCode.LOSSY_PRECISION,
                "The DICOM image was compressed with loss of detail.",
            )
        )
    return found


def _unsupported_syntax() -> UnsupportedTransferSyntaxError:
    return UnsupportedTransferSyntaxError(
        f"The DICOM file's compression is not read. Read are: {_SUPPORTED_SYNTAXES}."
    )
