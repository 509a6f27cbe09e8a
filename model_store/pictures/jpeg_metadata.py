"""Long metadata before a JPEG's pixels, left out before any library looks at them.

A JPEG may have any number of application segments and comments. Pillow joins those of EXIF one by
one, which takes time proportional to the square of their number. No pixel depends on them. The
orientation is in the first EXIF segment, and the coding of colours in those of JFIF and Adobe,
which are kept at any length.
"""

from __future__ import annotations

from itertools import pairwise

from model_store.pictures.codestream_header import jpeg_segments

MOST_METADATA_BYTES = 1 << 20
"""Read as they are: a thumbnail or a colour profile of some size."""

_JFIF, _EXIF, _ADOBE, _COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
_METADATA = frozenset({*range(0xE0, 0xF0), _COMMENT})
_MARKER_AND_LENGTH_BYTES = 4


def without_long_metadata(data: bytes) -> bytes:
    """Return a JPEG without most of its metadata where they are longer than any X-ray's.

    Args:
        data: the file, with its JPEG signature.

    Raises:
        ValueError: something else stands where a marker belongs.
    """
    dropped: list[tuple[int, int]] = []
    size_bytes, has_exif = 0, False
    for marker, start in jpeg_segments(data):
        if marker not in _METADATA:
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        size_bytes += end - start
        body = start + _MARKER_AND_LENGTH_BYTES
        is_first_exif = marker == _EXIF and not has_exif and data[body : body + 4] == b"Exif"
        has_exif = has_exif or is_first_exif
        if not (is_first_exif or marker in (_JFIF, _ADOBE)):
            dropped.append((start, end))
    if size_bytes <= MOST_METADATA_BYTES:
        return data
    kept = pairwise([0, *(edge for cut in dropped for edge in cut), len(data)])
    return b"".join(data[start:end] for number, (start, end) in enumerate(kept) if number % 2 == 0)
