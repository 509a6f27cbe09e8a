"""JPEG codestreams to pixels, with damage noticed.

A JPEG has no checksum. Where bytes are missing or changed, libjpeg notes a warning, fills what it
cannot read with grey, and goes on; Pillow drops the warnings, so that half an X-ray would be
segmented without a word. simplejpeg is the same libjpeg-turbo with the warnings as errors. Its
pixels are equal to Pillow's (tested) and come in half the time. A changed bit that still makes
sense as a code is found by nobody.
"""

from __future__ import annotations

import re
from typing import Any

import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from model_store.pictures.codestream_size import find_first_scan
from model_store.pictures.picture_errors import UndecodablePictureError

_END = b"\xff\xd9"
_DAMAGE = ("corrupt jpeg data", "premature end")
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
"""Bytes between the picture and its end. Some scanners pad with zeros; where they are anything
else, the picture ended too early, because codes before them were changed."""


def read_jpeg(codestream: bytes, channels: int) -> NDArray[Any] | None:
    """Decodes a JPEG whose size was checked before.

    Args:
        codestream: the file, or a frame of a DICOM object.
        channels: 1 for grey (of a colour image its luminance), 3 for RGB.

    Returns:
        (H, W, channels) uint8; None for a kind that is not read here, such as 12 bits, or one with
        bytes left over.

    Raises:
        UndecodablePictureError: data are missing or damaged.
    """
    try:
        pixels: NDArray[Any] = simplejpeg.decode_jpeg(
            codestream, "GRAY" if channels == 1 else "RGB", strict=True
        )
    except ValueError as error:
        reason = str(error).lower()
        if any(word in reason for word in _DAMAGE) and not _is_padding(codestream, reason):
            raise UndecodablePictureError(
                "The JPEG data are damaged: a part of the picture is missing; send it again in "
                "full, or export it anew."
            ) from None
        return None
    return pixels


def _is_padding(codestream: bytes, reason: str) -> bool:
    """Judges at the picture's own end: thumbnails before it and trailers behind it have one too."""
    left_over = _LEFT_OVER.search(reason)
    if left_over is None:
        return False
    try:
        end = codestream.index(_END, find_first_scan(codestream))
    except ValueError:
        return False
    return not codestream[max(0, end - int(left_over[1])) : end].strip(b"\x00\xff")
