"""Normalize a form for python-multipart, which accepts less than the RFCs allow.

A preamble before the first boundary and an epilogue after the last one are ignored. Blanks after a
boundary are padding (RFC 2046, section 5.1.1). A header may continue in the next line (RFC 5322,
section 2.2.3). The bytes of fields are unchanged; the parser refuses what is not a form.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from service.errors import MalformedRequest

MAX_PREAMBLE_BYTES = 65_536
MAX_HEAD_BYTES = 16_384
"""Most bytes of one part's headers."""

_REST_OF_LINE = re.compile(rb"(--)?[ \t]*\r\n")
_BEGUN_LINE = re.compile(rb"-?-?[ \t]*\r?")
_FOLD = re.compile(rb"\r\n[ \t]+")
_END_OF_HEAD = b"\r\n\r\n"


class _Place(Enum):
    PREAMBLE = auto()
    HEAD = auto()
    FIELD = auto()
    EPILOGUE = auto()


class MultipartLines:
    """A form that arrives in pieces."""

    def __init__(self, boundary: bytes) -> None:
        """Start before the first boundary."""
        self._delimiter = b"\r\n--" + boundary
        self._held = b"\r\n"  # the first boundary may be the first of all
        self._place = _Place.PREAMBLE
        self._has_begun = False

    def rewritten(self, chunk: bytes) -> bytes:
        """Return the parser's input for the next piece of the body.

        Raises:
            MalformedRequest: there is no boundary, or the headers of a part do not end.
        """
        if self.is_inside_field(chunk):
            return chunk
        data, ready, place = self._held + chunk, [], None
        while place is not self._place:
            place = self._place
            taken, data = self._step(data)
            ready.append(taken)
        self._held = data
        return b"".join(ready)

    def rest(self) -> bytes:
        """Return the bytes held back, at the end of the body."""
        return self._held if self._has_begun else b""

    def is_inside_field(self, chunk: bytes) -> bool:
        """Return whether no boundary can be near, as for nearly all pieces of an X-ray."""
        return (
            self._place is _Place.FIELD
            and not self._held
            and b"\r" not in chunk[-len(self._delimiter) :]
            and self._delimiter not in chunk
        )

    def _step(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the bytes that are ready, and the rest."""
        if self._place is _Place.PREAMBLE:
            return self._skip_preamble(data)
        if self._place is _Place.HEAD:
            return self._read_head(data)
        if self._place is _Place.FIELD:
            return self._pass_field(data)
        return b"", b""

    def _skip_preamble(self, data: bytes) -> tuple[bytes, bytes]:
        start = data.find(self._delimiter)
        if start >= 0:
            self._place = _Place.HEAD
            return b"", data[start:]
        if len(data) > MAX_PREAMBLE_BYTES:
            raise MalformedRequest("The body has no boundary where the first field should begin.")
        return b"", data

    def _pass_field(self, data: bytes) -> tuple[bytes, bytes]:
        start = data.find(self._delimiter)
        if start >= 0:
            self._place = _Place.HEAD
            return data[:start], data[start:]
        begun = data.rfind(b"\r", -len(self._delimiter))
        if begun >= 0 and self._delimiter.startswith(data[begun:]):
            return data[:begun], data[begun:]
        return data, b""

    def _read_head(self, data: bytes) -> tuple[bytes, bytes]:
        """Read from a boundary to the end of a part's headers."""
        after = data[len(self._delimiter) :]
        line = _REST_OF_LINE.match(after)
        if line is None:
            if _BEGUN_LINE.fullmatch(after) and len(after) < MAX_HEAD_BYTES:
                return b"", data
            self._place = _Place.FIELD if self._has_begun else _Place.PREAMBLE
            return (self._delimiter if self._has_begun else b""), after  # it was not a boundary
        delimiter = self._delimiter if self._has_begun else self._delimiter[2:]
        if line[1]:
            self._place, self._has_begun = _Place.EPILOGUE, True
            return delimiter + b"--\r\n", b""
        lines_at = line.end() - 2
        end = after.find(_END_OF_HEAD, lines_at)
        if end < 0:
            if len(after) > MAX_HEAD_BYTES:
                raise MalformedRequest(
                    f"The headers of a part of the form are longer than {MAX_HEAD_BYTES} bytes."
                )
            return b"", data
        self._place, self._has_begun = _Place.FIELD, True
        head = _FOLD.sub(b" ", after[lines_at:end])
        return delimiter + head + _END_OF_HEAD, after[end + len(_END_OF_HEAD) :]
