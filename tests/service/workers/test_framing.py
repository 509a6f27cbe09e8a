"""Frames arrive whole, in order and with their descriptors, however the socket cuts them."""

from __future__ import annotations

import os
import socket

import pytest

from service.workers.framing import (
    MOST_BODY_BYTES,
    MOST_DESCRIPTORS,
    MOST_JSON_BYTES,
    Frame,
    FrameError,
    FrameReader,
    Kind,
    encode,
    receive,
    send,
)


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def test_frames_arrive_as_they_were_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    reading, writing = os.pipe()
    with ours, theirs, os.fdopen(writing, "wb") as pipe:
        frames = [
            Frame(Kind.TASK, {"name": "Müller"}, b"\0\1", (reading,)),
            Frame(Kind.DONE),
            Frame(Kind.FAILED, {"where": []}, b"x" * 1000),
        ]
        for frame in frames:
            send(ours, frame)
        os.close(reading)
        reader = FrameReader()
        found = [receive(theirs, reader) for _ in frames]
        assert [(each.kind, each.fields, each.body) for each in found] == [
            (each.kind, each.fields, each.body) for each in frames
        ]
        pipe.write(b"through")
        pipe.flush()
        assert os.read(found[0].descriptors[0], 100) == b"through"
        found[0].close()


def test_a_frame_that_comes_byte_by_byte_is_one_frame(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    with ours, theirs:
        reader = FrameReader()
        data = encode(Frame(Kind.DONE, {"a": 1}, b"body"))
        for at, byte in enumerate(data):
            assert reader.next_frame() is None, at
            ours.sendall(bytes([byte]))
            assert reader.fill(theirs)
        frame = reader.next_frame()
        assert frame is not None and frame.body == b"body"
        assert reader.next_frame() is None


def test_the_largest_body_crosses(pair: tuple[socket.socket, socket.socket]) -> None:
    import threading

    ours, theirs = pair
    with ours, theirs:
        frame = Frame(Kind.DONE, body=bytes(MOST_BODY_BYTES))
        sending = threading.Thread(target=send, args=(ours, frame))
        sending.start()
        assert receive(theirs, FrameReader()).body == frame.body
        sending.join()


@pytest.mark.parametrize(
    "frame",
    [
        Frame(Kind.DONE, body=bytes(MOST_BODY_BYTES + 1)),
        Frame(Kind.DONE, {"a": "x" * MOST_JSON_BYTES}),
        Frame(Kind.DONE, descriptors=(0,) * (MOST_DESCRIPTORS + 1)),
    ],
    ids=["body", "JSON", "descriptors"],
)
def test_what_the_other_side_would_refuse_is_not_sent(frame: Frame) -> None:
    with pytest.raises(FrameError):
        encode(frame)


def test_descriptors_without_a_frame_of_theirs_are_refused_and_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    with ours, theirs:
        before = len(os.listdir("/proc/self/fd"))
        reader = FrameReader()
        socket.send_fds(ours, [encode(Frame(Kind.DONE))], [0, 0])
        reader.fill(theirs)
        with pytest.raises(FrameError):
            reader.next_frame()
        reader.close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_side_that_has_gone_is_the_end_and_no_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    with theirs:
        ours.sendall(encode(Frame(Kind.DONE))[:-1])
        ours.close()
        with pytest.raises(EOFError):
            receive(theirs, FrameReader())
