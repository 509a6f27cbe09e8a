"""Read a form, or a raw DICOM file, and count every byte while it arrives.

It uses python-multipart's event parser instead of Starlette's `request.form()`, for four reasons:

* A limit must hold for chunked bodies, which announce no length.
* An X-ray of a patient must never reach a temporary file.
* File names, which often contain patient names, are dropped here, so that no later code can log
  one.
* The X-ray is written directly to the shared memory that an image worker maps, so this process
  copies it only once. `python -m benchmarks.service.front_costs` prints the cost of a megabyte of
  upload.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.types import Message, Receive

from service.errors import (
    InvalidField,
    MalformedRequest,
    PayloadTooLarge,
    UnsupportedMediaType,
    UploadTooSlow,
)
from service.http.form_fields import (
    IMAGE_FIELD,
    MAX_FIELD_BYTES,
    FieldCollector,
    shown_name,
)
from service.http.multipart_lines import MultipartLines
from service.workers.shared_memory import Blob, BlobWriter

RAW_TYPE = b"application/dicom"
LEAST_WINDOW_BYTES = 4096
"""Least bytes of an upload in each `--upload-idle-timeout-s`: by default 0.4 kB a second."""

DISCARD_BYTES = 256 * 1024 * 1024
DISCARD_TIMEOUT_S = 5.0


class CallerLeft(Exception):  # noqa: N818 - names what happened, like the errors of the service
    """The caller closed the connection."""


@dataclass(frozen=True)
class UploadLimits:
    """Bounds of one request body.

    Attributes:
        max_bytes: largest body in bytes, everything included.
        max_fields: most form fields.
    """

    max_bytes: int
    max_fields: int


@dataclass(frozen=True)
class Upload:
    """A whole request body, and a context manager that releases its shared memory.

    Attributes:
        fields: `(name, value)` in the order sent; no file names, and no value of an image.
        image: the first image; None when there is none.
        size_bytes: bytes of the body.
    """

    fields: tuple[tuple[str, bytes], ...]
    image: Blob | None
    size_bytes: int

    def __enter__(self) -> Upload:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the shared memory."""
        if self.image is not None:
            self.image.close()


class RequestBody:
    """The incoming side of one request: its bytes, then the end of its connection.

    Attributes:
        is_complete: whether the last byte has been received.
    """

    def __init__(self, receive: Receive, idle_timeout_s: float = 60.0) -> None:
        """Wrap the ASGI channel of an unread request.

        Args:
            receive: the channel.
            idle_timeout_s: seconds in which at least `LEAST_WINDOW_BYTES` must arrive.
        """
        self._receive = receive
        self._idle_timeout_s = idle_timeout_s
        self.is_complete = False
        self._window_ends = 0.0
        self._window_bytes = 0
        self._waiting: asyncio.Timeout | None = None
        self._must_give_way = False

    def give_way(self) -> None:
        """End an upload whose memory others need: its reader gets `UploadTooSlow`."""
        self._must_give_way = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives.

        Raises:
            CallerLeft: the connection was closed before the end.
            UploadTooSlow: nothing arrived for too long.
        """
        while not self.is_complete:
            message = await self._next_message()
            if message["type"] == "http.disconnect":
                self.is_complete = True
                raise CallerLeft
            self.is_complete = not message.get("more_body", False)
            if message.get("body"):
                self._window_bytes += len(message["body"])
                yield message["body"]

    async def _next_message(self) -> Message:
        """Wait for a piece; a caller who trickles bytes is as slow as one who sends none.

        Raises:
            UploadTooSlow: less than `LEAST_WINDOW_BYTES` arrived in a window, or `give_way` was
                called.
        """
        if self._must_give_way:
            raise self._too_slow_for_others()
        now = time.monotonic()
        if now >= self._window_ends:
            if self._window_bytes < LEAST_WINDOW_BYTES and self._window_ends:
                raise self._too_slow()
            self._window_ends, self._window_bytes = now + self._idle_timeout_s, 0
        try:
            async with asyncio.timeout(self._window_ends - now) as self._waiting:
                return await self._receive()
        except TimeoutError:
            if self._must_give_way or self._window_bytes >= LEAST_WINDOW_BYTES:
                return await self._next_message()
            raise self._too_slow() from None
        finally:
            self._waiting = None

    def _too_slow_for_others(self) -> UploadTooSlow:
        self.is_complete = True
        return UploadTooSlow(
            "The upload was ended because it came too slowly and the memory for unfinished "
            "uploads is full. Send it again over a better connection."
        )

    def _too_slow(self) -> UploadTooSlow:
        self.is_complete = True
        return UploadTooSlow(
            f"Only {self._window_bytes} bytes of the upload came in {self._idle_timeout_s:g} "
            f"seconds and at least {LEAST_WINDOW_BYTES} must; send it again over a better "
            "connection."
        )

    async def discard_rest(self) -> None:
        """Read and discard the rest of a refused body, within bounds.

        Most clients read the answer only after they have sent everything. A server that closes
        the connection early makes them report a broken pipe instead of the 413 that explains it.
        """
        discarded = 0
        try:
            async with asyncio.timeout(DISCARD_TIMEOUT_S):
                async for chunk in self.chunks():
                    discarded += len(chunk)
                    if discarded > DISCARD_BYTES:
                        return
        except (TimeoutError, CallerLeft, UploadTooSlow):
            return  # the answer is already sent

    async def wait_until_caller_leaves(self) -> None:
        """Return when the connection closes; call it once the whole body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def read_upload(
    body: RequestBody,
    headers: Mapping[str, str],
    query: Sequence[tuple[str, str]],
    limits: UploadLimits,
    hold_bytes: Callable[[int], None],
    pause_after: Callable[[float], float] = lambda spent_s: 0.0,
) -> Upload:
    """Read the whole body of a request: a form, or a raw DICOM file.

    Args:
        body: the incoming side of the request.
        headers: request headers, lower-case names.
        query: parameters of the URL, which replace the form's fields for a raw DICOM file.
        limits: bounds of the body.
        hold_bytes: called with the size of each chunk before it is stored; may refuse by raising.
        pause_after: told the processor time that a chunk took; says how long the next one waits,
            seconds.

    Returns:
        The fields of the form; the caller closes it.

    Raises:
        UnsupportedMediaType: the body is neither multipart/form-data nor application/dicom, or it
            is compressed as a whole.
        PayloadTooLarge: the body is larger than the limit, by its header or its bytes.
        MalformedRequest: the body is not valid multipart, or has too many fields.
        InvalidField: a field other than the image is too long, or a form has a query.
        CallerLeft: the connection was closed.
    """
    _refuse_encoded(headers.get("content-encoding", ""))
    kind, _ = parse_options_header(headers.get("content-type", ""))
    if kind == RAW_TYPE:
        chunks = _counted(body, headers, limits, hold_bytes, pause_after)
        return await _read_file(chunks, query, limits)
    if query:
        raise InvalidField(
            "The address has a query (after '?'), which is read beside a body of the type "
            "application/dicom only; send form fields."
        )
    boundary = _boundary_of(headers.get("content-type", ""))
    chunks = _counted(body, headers, limits, hold_bytes, pause_after)
    return await _read_form(chunks, boundary, limits)


async def _read_form(
    chunks: AsyncGenerator[bytes, None], boundary: bytes, limits: UploadLimits
) -> Upload:
    collector = FieldCollector(limits.max_fields)
    parser, lines = collector.parser(boundary), MultipartLines(boundary)
    size_bytes = 0
    try:
        async for chunk in chunks:
            size_bytes += len(chunk)
            if lines.is_inside_field(chunk) and collector.takes_data(parser):
                collector.add_data(chunk)  # the parser would search it for the boundary once more
            else:
                parser.write(lines.rewritten(chunk))
        parser.write(lines.rest())
        parser.finalize()
        if not collector.has_ended:
            raise MalformedRequest(
                "The body ends before its closing boundary; send it again whole."
            )
    except FormParserError:
        collector.close()
        raise MalformedRequest(
            "The body is not valid multipart/form-data; send it as `curl -F image=@file` does."
        ) from None
    except BaseException:
        collector.close()
        raise
    return Upload(tuple(collector.fields), collector.image, size_bytes)


async def _read_file(
    chunks: AsyncGenerator[bytes, None], query: Sequence[tuple[str, str]], limits: UploadLimits
) -> Upload:
    """Read a body that is the file itself; its options are in the URL."""
    if len(query) > limits.max_fields:
        raise MalformedRequest(f"The address has more than {limits.max_fields} parameters.")
    for name, value in query:
        if name == IMAGE_FIELD:
            raise InvalidField("The X-ray is the body; the address has no parameter image.")
        if len(value) > MAX_FIELD_BYTES:
            raise InvalidField(
                f"The parameter {shown_name(name)} is longer than {MAX_FIELD_BYTES} bytes."
            )
    fields = [(name, value.encode()) for name, value in query]
    file = BlobWriter()
    try:
        async for chunk in chunks:
            file.write(chunk)
        image = file.finish()
    finally:
        file.close()
    return Upload((*fields, (IMAGE_FIELD, b"")), image, image.size_bytes)


async def _counted(
    body: RequestBody,
    headers: Mapping[str, str],
    limits: UploadLimits,
    hold_bytes: Callable[[int], None],
    pause_after: Callable[[float], float],
) -> AsyncGenerator[bytes, None]:
    """Yield the body while it is within its limit, and no quicker than it may come."""
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdecimal() and int(announced) > limits.max_bytes:
        raise _too_large(limits.max_bytes, f"{int(announced)} bytes were announced")
    size_bytes = 0
    async for chunk in body.chunks():
        size_bytes += len(chunk)
        if size_bytes > limits.max_bytes:
            raise _too_large(limits.max_bytes, f"{size_bytes} bytes had arrived")
        hold_bytes(len(chunk))
        began_s = time.thread_time()
        yield chunk
        pause_s = pause_after(time.thread_time() - began_s)
        if pause_s and not body.is_complete:
            await asyncio.sleep(pause_s)


def _refuse_encoded(encoding: str) -> None:
    """Refuse a compressed body by its header: inflating untrusted bytes would need limits."""
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType(
            "The body is compressed (Content-Encoding), which is not read; send it as it is. PNG, "
            "JPEG and most DICOM files are compressed already."
        )


def _boundary_of(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMediaType(
            "The body must be multipart/form-data with the field image, as `curl -F image=@file` "
            "sends it, or a DICOM file of the type application/dicom."
        )
    boundary = options.get(b"boundary")
    if not boundary:
        raise UnsupportedMediaType("The Content-Type multipart/form-data names no boundary.")
    return boundary


def _too_large(limit_bytes: int, actual: str) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The upload may have at most {limit_bytes} bytes; {actual}. Send a smaller file."
    )
