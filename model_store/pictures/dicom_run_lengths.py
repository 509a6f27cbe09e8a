"""Run-length coded DICOM frames to stored values.

A frame is a header of 16 numbers, and a segment for each byte of a pixel, the highest byte first.
Any zeros after the codes of a segment are padding, because writers align segments to 2, 4 or more
bytes. Segments that decode to too few bytes are refused: decoders leave the rest of their output
uninitialized, and it can show another picture.

Format: DICOM PS3.5, annex G.
"""

from __future__ import annotations

import itertools
import struct
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from model_store.pictures.picture_errors import UndecodablePictureError

_HEADER = struct.Struct("<16L")


def decode_run_lengths(frame: bytes, pixel_count: int, samples: int, itemsize: int) -> NDArray[Any]:
    """Decode one frame.

    Args:
        frame: header and segments.
        pixel_count: rows times columns.
        samples: samples per pixel.
        itemsize: bytes per sample, 1 or 2.

    Returns:
        (samples, pixel_count) uint8 or uint16.

    Raises:
        UndecodablePictureError: damaged, or not of the header's size.
    """
    segments = _segments(frame)
    if len(segments) != samples * itemsize:
        raise _damaged()
    single_bytes = np.empty((samples, pixel_count, itemsize), np.uint8)  # the lowest first
    for number, segment in enumerate(segments):
        sample, place = divmod(number, itemsize)
        decoded = np.frombuffer(_decoded(segment, pixel_count), np.uint8, pixel_count)
        single_bytes[sample, :, itemsize - 1 - place] = decoded
    return single_bytes.view(f"<u{itemsize}")[..., 0]


def _segments(frame: bytes) -> list[bytes]:
    if len(frame) < _HEADER.size:
        raise _damaged()
    count, *starts = _HEADER.unpack_from(frame)
    if not 1 <= count <= len(starts):
        raise _damaged()
    bounds = [*starts[:count], len(frame)]
    if bounds[0] < _HEADER.size or bounds != sorted(bounds):
        raise _damaged()
    return [frame[start:end] for start, end in itertools.pairwise(bounds)]


def _decoded(segment: bytes, size_bytes: int) -> bytes:
    """Return the bytes of a segment; padding, decoded as codes, appends zeros."""
    padding_bytes = len(segment) - len(segment.rstrip(b"\0"))
    try:
        plain = imagecodecs.packbits_decode(segment, out=size_bytes + padding_bytes // 2)
    except imagecodecs.PackbitsError:
        raise _damaged() from None
    if len(plain) < size_bytes or any(plain[size_bytes:]):
        raise _damaged()
    return bytes(plain)


def _damaged() -> UndecodablePictureError:
    return UndecodablePictureError(
        "The DICOM run-length data are damaged, or are not of the header's size."
    )
