"""Frames between the processes of the service: header, JSON, raw bytes, descriptors.

Header (14 bytes, little endian): magic `LSW1`, kind (1 byte), number of descriptors (1), length of
the JSON (4), length of the raw bytes (4). Every length is bounded before anything is stored, the
JSON must be an object, and nothing is ever unpickled. Larger data are passed as shared memory,
whose descriptors are sent with the first byte of a frame.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NoReturn

MAGIC = b"LSW1"
HEADER = struct.Struct("<4sBBII")
MOST_JSON_BYTES = 256 << 10
"""Most bytes of JSON: a hostile worker can make the front build objects of some 30 times this size,
in 10 ms."""
MOST_BODY_BYTES = 1 << 20
MOST_DESCRIPTORS = 16
_RECEIVE_BYTES = 1 << 18
_ANCILLARY_BYTES = socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)


class FrameError(Exception):
    """The other side sent an invalid frame."""


class Kind(IntEnum):
    """The kinds of frames."""

    CONFIG = 1  # front to template: what to import, limits
    WARM = 2  # template: ready to fork, or what became of the extras
    FORK = 3  # front: fork a worker for this socket
    FORKED = 4  # template: its process id
    KILL = 5  # front: kill this worker
    ENDED = 6  # template: wait status and usage of a worker
    READY = 7  # worker: its limits are set
    TASK = 8  # front to worker
    DONE = 9  # worker: the answer
    REFUSED = 10  # worker: the function refused the input
    FAILED = 11  # worker: the function raised
    MEMORY = 12  # worker: no memory left under its limit
    MORE = 13  # worker: the function asks for more processor time
    WARM_EXTRAS = 14  # front to template: load what few tasks need
    CONNECTION = 20  # serving process to front: a caller's connection
    STOP = 21  # serving process: answer who is connected, and end
    ADMITTED = 22  # serving process: the request may send its upload
    ANSWERED = 23  # serving process: the answer to an X-ray
    FORWARDED = 24  # serving process: the answer of any other route
    EVENTS = 25  # front: what became of connections
    ADMIT = 26  # front: a request begins
    SEGMENT = 27  # front: its X-ray, and the request about it
    PREVIEW = 28  # front: its X-ray, to be shown
    END = 29  # front: nobody waits for it any more
    COUNT = 30  # front: it is over
    FORWARD = 31  # front: a request of another route
    ASK_ALIVE = 32  # serving process to front: say that you run
    ALIVE = 33  # front: it does


@dataclass(frozen=True)
class Frame:
    """One message.

    Attributes:
        fields: its JSON object.
        body: its raw bytes.
        descriptors: file descriptors; the receiver owns them.
    """

    kind: Kind
    fields: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""
    descriptors: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors of a received frame that nobody uses."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame; its descriptors must be sent with the first byte.

    Raises:
        FrameError: it is too large for the other side.
    """
    text = json.dumps(frame.fields, separators=(",", ":")).encode()
    _check_lengths(len(frame.descriptors), len(text), len(frame.body))
    header = HEADER.pack(MAGIC, frame.kind, len(frame.descriptors), len(text), len(frame.body))
    return b"".join((header, text, frame.body))


def send(connection: socket.socket, frame: Frame) -> None:
    """Send a frame through a blocking socket.

    Raises:
        FrameError: it is too large.
        OSError: the other side is gone.
    """
    data = memoryview(encode(frame))
    sent = socket.send_fds(connection, [data], list(frame.descriptors))
    connection.sendall(data[sent:])


def receive(connection: socket.socket, reader: FrameReader) -> Frame:
    """Wait for the next frame of a blocking socket.

    Raises:
        EOFError: the other side is gone.
        FrameError: it sent an invalid frame.
    """
    while True:
        frame = reader.next_frame()
        if frame is not None:
            return frame
        if not reader.fill(connection):
            raise EOFError("the other side is gone")


class FrameReader:
    """Reads frames from a socket, piece by piece."""

    def __init__(self) -> None:
        """Start between two frames."""
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    def fill(self, connection: socket.socket) -> bool:
        """Receive once; False when the other side is gone.

        Raises:
            BlockingIOError: a nonblocking socket has no data.
            FrameError: it received more descriptors than a frame can have.
        """
        try:
            data, ancillary, flags, _ = connection.recvmsg(
                _RECEIVE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except (ConnectionError, BrokenPipeError):
            return False
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > MOST_DESCRIPTORS:
            raise FrameError("too many descriptors came")
        self._buffer += data
        return bool(data)

    def next_frame(self) -> Frame | None:
        """Return the next complete frame; None while it is incomplete.

        Raises:
            FrameError: the bytes are not a frame.
        """
        if len(self._buffer) < HEADER.size:
            return None
        magic, kind, descriptor_count, text_bytes, body_bytes = HEADER.unpack_from(self._buffer)
        if magic != MAGIC:
            raise FrameError("the header has another magic")
        _check_lengths(descriptor_count, text_bytes, body_bytes)
        end = HEADER.size + text_bytes + body_bytes
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            text = bytes(view[HEADER.size : HEADER.size + text_bytes])
            body = bytes(view[HEADER.size + text_bytes : end])
        if len(self._descriptors) < descriptor_count:
            raise FrameError("descriptors are missing")
        frame_kind, fields = _kind_of(kind), _fields_of(text)
        descriptors = tuple(self._descriptors[:descriptor_count])
        del self._buffer[:end], self._descriptors[:descriptor_count]
        if self._descriptors and not self._buffer:
            raise FrameError("more descriptors came than the frame states")
        return Frame(frame_kind, fields, body, descriptors)

    def close(self) -> None:
        """Drop received data that was not read."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._buffer.clear()


def _check_lengths(descriptor_count: int, text_bytes: int, body_bytes: int) -> None:
    if descriptor_count > MOST_DESCRIPTORS:
        raise FrameError(f"{descriptor_count} descriptors are more than {MOST_DESCRIPTORS}")
    if text_bytes > MOST_JSON_BYTES:
        raise FrameError(f"{text_bytes} bytes of JSON are more than {MOST_JSON_BYTES}")
    if body_bytes > MOST_BODY_BYTES:
        raise FrameError(f"{body_bytes} raw bytes are more than {MOST_BODY_BYTES}")


def _kind_of(number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise FrameError(f"the kind {number} is unknown") from None


def _fields_of(text: bytes) -> dict[str, Any]:
    try:
        found = _DECODER.decode(text.decode())
    except (ValueError, RecursionError):
        raise FrameError("the JSON cannot be read") from None
    if not isinstance(found, dict):
        raise FrameError("the JSON is no object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""One decoder for all frames, because `json.loads` would make one for each."""


def refuse_rest(frame: Frame, allowed: Sequence[Kind]) -> None:
    """Refuse a frame whose kind is not expected now.

    Raises:
        FrameError: it is of another kind; its descriptors are closed.
    """
    if frame.kind not in allowed:
        frame.close()
        raise FrameError(f"{frame.kind.name} came unasked")
