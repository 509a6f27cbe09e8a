"""Collect the fields of a form from the events of python-multipart's parser.

The X-ray is written to shared memory while it arrives, so it is copied only once and a worker maps
it. All other fields are short. File names, which often carry patient names, are dropped here.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from service.errors import InvalidField, MalformedRequest
from service.workers.shared_memory import Blob, BlobWriter

IMAGE_FIELD = "image"
MAX_FIELD_BYTES = 1024
"""Longest value of a field other than the image; a box takes about 30 bytes."""


class FieldCollector:
    """Receives the parser's events and collects the fields.

    Attributes:
        fields: `(name, value)` in the order sent; images have no value here.
        image: the first image; `form.read_form` refuses a form with two.
        has_ended: whether the closing boundary was received.
    """

    def __init__(self, max_fields: int) -> None:
        """Start empty.

        Args:
            max_fields: most fields of a form.
        """
        self.fields: list[tuple[str, bytes]] = []
        self.image: Blob | None = None
        self.has_ended = False
        self._max_fields = max_fields
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._value = bytearray()
        self._writer: BlobWriter | None = None

    def parser(self, boundary: bytes) -> MultipartParser:
        """Return a parser whose events this collector receives.

        Raises:
            MalformedRequest: the boundary is not usable.
        """
        try:
            return MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise MalformedRequest("The boundary of the multipart body is not usable.") from None

    def takes_data(self, parser: MultipartParser) -> bool:
        """Return whether `add_data` may follow what `parser` has told so far."""
        return parser.state == MultipartState.PART_DATA and parser.index == 0

    def add_data(self, data: bytes) -> None:
        """Take a piece of the current field that holds no boundary, past the parser.

        Raises:
            InvalidField: the field gets too long.
        """
        self._add_data(data, 0, len(data))

    def close(self) -> None:
        """Release the shared memory of an image that nobody has taken."""
        for held in (self._writer, self.image):
            if held is not None:
                held.close()

    def _begin_part(self) -> None:
        if len(self.fields) >= self._max_fields:
            raise MalformedRequest(f"The form has more than {self._max_fields} fields.")
        self._disposition = b""
        self._name = ""
        self._value = bytearray()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if not name:
            raise MalformedRequest("A part of the form has no field name.")
        self._name = name.decode("utf-8", errors="replace")
        if self._name == IMAGE_FIELD and self.image is None:
            self._writer = BlobWriter()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == IMAGE_FIELD:
            if self._writer is not None:
                self._writer.write(memoryview(data)[start:end])
            return
        if len(self._value) + end - start > MAX_FIELD_BYTES:
            raise InvalidField(
                f"The field {shown_name(self._name)} is longer than {MAX_FIELD_BYTES} bytes; the "
                f"X-ray goes into the field {IMAGE_FIELD}."
            )
        self._value += data[start:end]

    def _end_part(self) -> None:
        self.fields.append((self._name, bytes(self._value)))
        if self._writer is not None:
            self.image, self._writer = self._writer.finish(), None

    def _end(self) -> None:
        self.has_ended = True


def shown_name(name: str) -> str:
    """Quote a caller's field name for a sentence, shortened and without control characters."""
    clean = "".join(character if character.isprintable() else "?" for character in name)
    return f"'{clean[:64]}'" + (" (shortened)" if len(clean) > 64 else "")
