"""The pixels of a DICOM file, decoded by its transfer syntax.

| transfer syntax | decoder |
|---|---|
| uncompressed, deflated, encapsulated uncompressed | NumPy |
| RLE | imagecodecs, segment by segment |
| JPEG baseline and extended, 8 bits | simplejpeg, Pillow |
| JPEG extended with 12 bits, JPEG lossless | libjpeg-turbo in imagecodecs |
| JPEG-LS | CharLS in imagecodecs |
| JPEG 2000, High-Throughput JPEG 2000 | OpenJPEG in imagecodecs |

The size and depth that a codestream states are checked before it is decoded. The codec is read from
the codestream, because archives recompress files and leave the old transfer syntax in them.
"""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.processing import convert_color_space
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

from model_store.pictures.codestream_header import (
    Coding,
    read_codestream_header,
    unboxed,
)
from model_store.pictures.dicom_layout import PixelLayout
from model_store.pictures.dicom_run_lengths import decode_run_lengths
from model_store.pictures.dicom_structure import DicomFile
from model_store.pictures.jpeg_2000_parts import check_jpeg_2000_parts
from model_store.pictures.jpeg_pixels import (
    jpeg_pixel_coding,
    read_jpeg,
    with_colour_transform,
)
from model_store.pictures.picture_errors import (
    UndecodablePictureError,
    UnsupportedTransferSyntaxError,
)
from model_store.pictures.pixel_coding import PixelCoding

_ENCAPSULATED_UNCOMPRESSED = UID("1.2.840.10008.1.2.1.98")
_NATIVE = frozenset(
    {
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    }
)
_CODESTREAMS = frozenset(
    {
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEGLSNearLossless,
        JPEG2000Lossless,
        JPEG2000,
        HTJ2KLossless,
        HTJ2KLosslessRPCL,
        HTJ2K,
    }
)
_LOSSY = frozenset({JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K})
READ_SYNTAXES = _NATIVE | _CODESTREAMS | {RLELossless, _ENCAPSULATED_UNCOMPRESSED}
"""Transfer syntaxes that are read."""


def check_syntax(syntax: UID) -> None:
    """Refuse a transfer syntax that is not read.

    Raises:
        UnsupportedTransferSyntaxError: the message has the syntax's name, if the standard names it.
    """
    if syntax in READ_SYNTAXES:
        return
    # Only names of the standard appear in messages; an unknown number could be anything.
    name = syntax.name if syntax.name != syntax else "a private transfer syntax"
    raise UnsupportedTransferSyntaxError(
        f"The DICOM file's pixels are stored as {name}, which is not read. Read are uncompressed, "
        "deflated, RLE, JPEG (baseline, extended, lossless), JPEG-LS, JPEG 2000 and "
        "High-Throughput JPEG 2000; send one of these, or PNG with 16 bits."
    )


def coding_of(file: DicomFile) -> PixelCoding:
    """Return the coding of the pixels, from the codestream if there is one.

    Raises:
        ValueError: the codestream has no readable header.
    """
    if file.syntax == DeflatedExplicitVRLittleEndian:
        return PixelCoding.DEFLATE
    if file.syntax == RLELossless:
        return PixelCoding.RLE
    if file.pixels is None or not file.pixels.fragments:
        return PixelCoding.NATIVE
    if file.syntax in (*_NATIVE, _ENCAPSULATED_UNCOMPRESSED):
        return PixelCoding.NATIVE
    codestream = unboxed(file.pixels.frame)
    return jpeg_pixel_coding(codestream, read_codestream_header(codestream))


def decode_frame(file: DicomFile, layout: PixelLayout) -> NDArray[Any]:
    """Decode the one frame of a DICOM file.

    Args:
        file: the file, of a supported transfer syntax.
        layout: layout of the pixels, from the header.

    Returns:
        Stored values, (H, W), or (H, W, 3) as RGB; unused bits are unchanged.

    Raises:
        UndecodablePictureError: the pixels are incomplete, or contradict the header.
        UnsupportedPictureError: an unsupported kind of JPEG.
        ValueError: the codestream is damaged.
    """
    assert file.pixels is not None
    if file.pixels.native is not None:
        if file.syntax not in _NATIVE:
            raise _contradiction("transfer syntax")
        return _native(
            file.pixels.native, layout, file.is_little_endian, file.pixels.representation
        )
    if file.syntax in _NATIVE:
        raise _contradiction("transfer syntax")
    frame = file.pixels.frame
    if file.syntax == _ENCAPSULATED_UNCOMPRESSED:
        return _native(memoryview(frame), layout, True, file.pixels.representation)
    if file.syntax == RLELossless:
        return _as_rgb(_run_lengths(frame, layout), layout)
    pixels = _codestream(unboxed(frame), layout)
    return _without_overshoot(pixels, layout) if file.syntax in _LOSSY else pixels


def _native(
    value: memoryview, layout: PixelLayout, is_little_endian: bool, representation: str
) -> NDArray[Any]:
    dtype = np.dtype(f"{'<' if is_little_endian else '>'}u{layout.bits_allocated // 8}")
    pixel_count = layout.rows * layout.columns
    is_halved = layout.photometric == "YBR_FULL_422"  # two pixels share one colour
    value_count = pixel_count * (2 if is_halved else layout.samples)
    if len(value) < value_count * dtype.itemsize:
        raise UndecodablePictureError(
            f"The DICOM pixel data hold {len(value)} bytes of {value_count * dtype.itemsize}; "
            "send the file again in full."
        )
    if dtype.itemsize == 1 and not is_little_endian and representation == "OW":
        words = np.frombuffer(value[: len(value) & ~1], ">u2")
        values = words.astype("<u2").view(np.uint8)[:value_count]
    else:
        values = np.frombuffer(value, dtype, value_count)
    if is_halved:
        pairs = values.reshape(layout.rows, layout.columns // 2, 4)
        luma = pairs[..., :2].reshape(layout.rows, layout.columns)
        chroma = np.repeat(pairs[..., 2:], 2, axis=1)
        return _as_rgb(np.dstack((luma, chroma)), layout)
    if layout.is_grey:
        return values.reshape(layout.rows, layout.columns)
    if layout.is_planar:
        return _as_rgb(np.moveaxis(values.reshape(3, layout.rows, layout.columns), 0, -1), layout)
    return _as_rgb(values.reshape(layout.rows, layout.columns, 3), layout)


def _run_lengths(frame: bytes, layout: PixelLayout) -> NDArray[Any]:
    itemsize = layout.bits_allocated // 8
    planes = decode_run_lengths(frame, layout.rows * layout.columns, layout.samples, itemsize)
    planes = planes.reshape(layout.samples, layout.rows, layout.columns)
    return planes[0] if layout.is_grey else np.moveaxis(planes, 0, -1)


def _codestream(codestream: bytes, layout: PixelLayout) -> NDArray[Any]:
    header = read_codestream_header(codestream)
    if (header.width, header.height) != (layout.columns, layout.rows):
        raise _contradiction("size")
    if header.components != layout.samples:
        raise _contradiction("samples per pixel")
    if header.precision_bits > layout.bits_allocated:
        raise _contradiction("bits allocated")
    if header.coding is Coding.JPEG_2000:
        check_jpeg_2000_parts(codestream)
        return _as_rgb(imagecodecs.jpeg2k_decode(codestream), layout)
    if not layout.is_grey:
        codestream = with_colour_transform(codestream, layout.photometric != "RGB")
    return read_jpeg(codestream, header, layout.samples)


def _without_overshoot(pixels: NDArray[Any], layout: PixelLayout) -> NDArray[Any]:
    """Clip lossily coded values to the stored bits.

    Codecs clip at their own depth, often all 16 bits: white of 4095 can decode to 4098, whose lower
    12 bits are black.
    """
    if not layout.is_grey or layout.high_bit != layout.bits_stored - 1:
        return pixels
    if pixels.dtype.kind == "u" and layout.is_signed:  # two's complement, never lossy
        return pixels
    is_signed = pixels.dtype.kind == "i"
    highest = (1 << (layout.bits_stored - is_signed)) - 1
    lowest = -highest - 1 if is_signed else 0
    if int(pixels.max()) <= highest and int(pixels.min()) >= lowest:
        return pixels
    return np.asarray(np.clip(pixels, lowest, highest))


def _as_rgb(pixels: NDArray[Any], layout: PixelLayout) -> NDArray[Any]:
    if layout.is_grey or not layout.is_luma_chroma:
        return pixels
    return np.asarray(convert_color_space(pixels, "YBR_FULL", "RGB"))


def _contradiction(what: str) -> UndecodablePictureError:
    return UndecodablePictureError(f"The DICOM pixel data contradict the header's {what}.")
