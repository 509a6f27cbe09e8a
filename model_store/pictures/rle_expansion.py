"""How large a DICOM run-length frame becomes, counted without decoding it.

Two bytes of PackBits stand for up to 128, and pydicom expands a segment to its end before it
looks at the size: a 30 MB upload would fill 2 GB. Walking over the run headers stops as soon as a
segment is too long.

Format: DICOM PS3.5 annex G.
"""

from __future__ import annotations

import itertools
import struct

_HEADER = struct.Struct("<16L")  # number of segments, then up to 15 offsets
_NO_OPERATION = 128


def check_rle_expansion(frame: bytes, segment_bytes: int) -> None:
    """Refuses a frame of which a segment expands to far more than its plane needs.

    Args:
        frame: the run-length frame, header first.
        segment_bytes: bytes of one decoded segment: rows times columns.

    Raises:
        ValueError: the header is broken, or a segment is longer than twice `segment_bytes` (some
            writers pad the end).
    """
    if len(frame) < _HEADER.size:
        raise ValueError("the run-length frame has no header")
    count, *offsets = _HEADER.unpack_from(frame)
    if not 1 <= count <= 15:
        raise ValueError("the run-length frame has no valid number of segments")
    bounds = [*offsets[:count], len(frame)]
    for start, end in itertools.pairwise(bounds):
        if not _HEADER.size <= start <= end <= len(frame):
            raise ValueError("the run-length segments overlap or lie outside the frame")
        _check_segment(frame, start, end, 2 * segment_bytes)


def _check_segment(frame: bytes, start: int, end: int, limit_bytes: int) -> None:
    position, expanded_bytes = start, 0
    while position < end:
        control = frame[position]
        if control < _NO_OPERATION:  # that many bytes plus one follow as they are
            expanded_bytes += control + 1
            position += control + 2
        elif control > _NO_OPERATION:  # one byte follows, repeated 257 - control times
            expanded_bytes += 257 - control
            position += 2
        else:
            position += 1
        if expanded_bytes > limit_bytes:
            raise ValueError("a run-length segment expands to more than the image holds")
