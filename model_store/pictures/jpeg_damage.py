"""Check that a JPEG is complete: libjpeg's warnings are errors here.

A JPEG has no checksum. Where bytes are missing or changed, libjpeg records a warning, fills the
unreadable part with grey, and continues. Most libraries drop the warnings, so half an X-ray would
be segmented silently. simplejpeg uses the same libjpeg-turbo as Pillow and imagecodecs, but raises
the warnings as errors. It reads only 8 bits, but codes do not depend on the depth. So for 12 and 16
bits it gets a header that says 8, and its pixels are discarded.

Some encoders pad with zeros before a marker; the picture is then still whole.

Changed bits that are still valid codes raise no warning. In a lossless JPEG they often stand for
more or fewer pixels than before, and all later pixels move. The codes then end before the last
byte, which libjpeg does not notice within eight bytes; so the last byte must be needed. What passes
is almost always damage within one row of pixels.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from typing import Any

import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from model_store.pictures.codestream_header import (
    CodestreamHeader,
    Coding,
    find_first_scan,
    jpeg_segments,
    read_codestream_header,
)
from model_store.pictures.picture_errors import UndecodablePictureError

_END = b"\xff\xd9"
_DAMAGE = ("corrupt jpeg data", "premature end")
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
"""Bytes between the codes of a part of the picture and its end. Zeros are padding by some encoders.
Anything else means that the part ended too early, because its codes were changed."""
_PADDING = re.compile(rb"(?<!\xff)(\x00+)(?=\xff[\x01-\xfe])")
_MOST_READ_ZEROS = 12
"""Most zero bytes at the end that may have been consumed: libjpeg's bit buffer has 8, and a few may
be codes. If more were consumed, they replaced missing codes."""
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_RESTART_INTERVAL = 0xDD
_FRAME_HEADERS = range(0xC0, 0xC4)
_BLOCK_SIDE = 8


def read_whole_jpeg(codestream: bytes, channels: int) -> NDArray[Any] | None:
    """Decode a JPEG of 8 bits of which nothing is missing.

    Args:
        codestream: a JPEG whose size and scans are checked.
        channels: 1 for grey, 3 for RGB.

    Returns:
        (H, W) for grey, else (H, W, 3); None if simplejpeg refuses it although nothing is missing,
        for example with bytes after its end.

    Raises:
        UndecodablePictureError: data are missing or damaged.
    """
    try:
        return _strict(codestream, channels)
    except ValueError as error:
        reason = str(error).lower()
    if not any(word in reason for word in _DAMAGE):
        return None
    if not _has_all_restarts(codestream):
        raise damaged_jpeg()
    if _is_padded_at_end(codestream, reason):
        return None
    for candidate in _without_padding(codestream, reason):
        try:
            return _strict(candidate, channels)
        except ValueError:
            continue
    raise damaged_jpeg()


def check_deep_jpeg(codestream: bytes, header: CodestreamHeader) -> None:
    """Refuse a JPEG of any depth, also a lossless one, of which a part is missing.

    Raises:
        UndecodablePictureError: data are missing or damaged.
    """
    for marker, position in jpeg_segments(codestream):
        if marker in _FRAME_HEADERS:
            shallow = codestream[: position + 4] + b"\x08" + codestream[position + 5 :]
            is_strict = read_whole_jpeg(shallow, header.components) is not None
            is_lossless = header.coding is Coding.JPEG_LOSSLESS
            if is_strict and is_lossless and _ends_early(shallow, header.components):
                raise damaged_jpeg()


def damaged_jpeg() -> UndecodablePictureError:
    """Return the error for a JPEG with a missing part."""
    return UndecodablePictureError(
        "The JPEG data are damaged: a part of the picture is missing; send it again in full, or "
        "export it again."
    )


def _strict(codestream: bytes, channels: int) -> NDArray[Any]:
    space = "GRAY" if channels == 1 else "RGB"
    pixels: NDArray[Any] = simplejpeg.decode_jpeg(codestream, space, strict=True)
    return pixels[..., 0] if channels == 1 else pixels


def _ends_early(codestream: bytes, channels: int) -> bool:
    """Return whether the picture is whole without its last byte of codes.

    An encoder fills the last byte with ones and may pad with zeros, so bytes of ones and zeros at
    the end may be left over.
    """
    end = codestream.index(_END, find_first_scan(codestream))
    codes = codestream[:end].rstrip(b"\0\xff")
    if codes[-2] == 0xFF:  # a marker
        return False
    try:
        _strict(codes[:-1] + codestream[end:], channels)
    except ValueError:  # something is missing now, as it must be
        return False
    return True


def _is_padded_at_end(codestream: bytes, reason: str) -> bool:
    """Return whether the zeros at the picture's end are padding.

    Thumbnails before the picture and trailers after it have an end, too. The decoder leaves an
    encoder's padding unread, but reads zeros that replace the last codes.
    """
    left_over = _LEFT_OVER.search(reason)
    if left_over is None or left_over[2] != "d9":
        return False
    try:
        end = codestream.index(_END, find_first_scan(codestream))
    except ValueError:
        return False
    count = int(left_over[1])
    codes = codestream[: max(0, end - count)]
    is_padding = not codestream[len(codes) : end].strip(b"\x00\xff")
    return is_padding and len(codes) - len(codes.rstrip(b"\0")) <= _MOST_READ_ZEROS


def _without_padding(codestream: bytes, reason: str) -> list[bytes]:
    """Return candidates without an encoder's zero padding before markers.

    The last code of a part may itself end in a zero byte: a run length that is rarer than the next
    shorter one is treated as that. The other candidate has no zeros at all.
    """
    if _LEFT_OVER.search(reason) is None:
        return []
    try:
        start = find_first_scan(codestream)
    except ValueError:
        return []
    scans = codestream[start:]
    counts = Counter(len(run) for run in _PADDING.findall(scans))

    def own_zero(found: re.Match[bytes]) -> bytes:
        length = len(found[1])
        return b"\0" if counts[length - 1] > counts[length] else b""

    return [
        codestream[:start] + _PADDING.sub(own_zero, scans),
        codestream[:start] + _PADDING.sub(b"", scans),
    ]


def _has_all_restarts(codestream: bytes) -> bool:
    """Return whether a single scan has all its restart markers, in order.

    After a missing marker libjpeg fills the picture, without a further warning.
    """
    try:
        header = read_codestream_header(codestream)
        segments = dict(jpeg_segments(codestream))
        start = find_first_scan(codestream)
    except ValueError:
        return True
    data = codestream[start:]
    if _RESTART_INTERVAL not in segments or data.count(b"\xff\xda") > 1:
        return True
    (interval,) = struct.unpack_from(">H", codestream, segments[_RESTART_INTERVAL] + 4)
    frame = max(segments.get(marker, 0) for marker in _FRAME_HEADERS)
    if not interval or not frame:
        return True
    width, height = _unit_size(codestream, frame, header)
    units = -(-header.width // width) * -(-header.height // height)
    end = data.find(_END)
    numbers = [found[0][1] - 0xD0 for found in _RESTART.finditer(data, 0, max(end, 0))]
    return numbers == [number % 8 for number in range(-(-units // interval) - 1)]


def _unit_size(codestream: bytes, frame: int, header: CodestreamHeader) -> tuple[int, int]:
    """Return width and height in pixels of a coded unit (ITU-T T.81, A.2)."""
    side = 1 if header.coding is Coding.JPEG_LOSSLESS else _BLOCK_SIDE
    if header.components == 1:
        return side, side
    sampling = codestream[frame + 11 : frame + 10 + 3 * header.components : 3]
    across, down = (
        max(values) for values in zip(*(divmod(one, 16) for one in sampling), strict=True)
    )
    return side * across, side * down
