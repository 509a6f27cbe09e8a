"""The multipart reader: limits while receiving, no file names, bounded fields."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any

import pytest

from service.errors import (
    InvalidField,
    MalformedRequest,
    PayloadTooLarge,
    ServiceError,
    UnsupportedMediaType,
    UploadTooSlow,
)
from service.http.upload import CallerLeft, RequestBody, Upload, UploadLimits, read_upload
from service.workers.shared_memory import Blob

pytestmark = pytest.mark.anyio
LIMITS = UploadLimits(max_bytes=10_000, max_fields=4)
TYPE = "multipart/form-data; boundary=b"


def part(name: str, value: bytes, file_name: str | None = None) -> bytes:
    """One part of a form."""
    shown = f'; filename="{file_name}"' if file_name is not None else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def body_of(chunks: Iterable[bytes], *, breaks: bool = False) -> RequestBody:
    """A body that arrives in chunks, and may break off."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    end = {"type": "http.disconnect"} if breaks else {"type": "http.request", "body": b""}
    messages.append(end)
    queue = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(queue)

    return RequestBody(receive)


async def read(data: bytes, *, size: int = 100, **headers: str) -> Upload:
    """Reads `data`, which arrives in chunks of `size` bytes."""
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    given = {"content-type": TYPE} | {k.replace("_", "-"): v for k, v in headers.items()}
    return await read_upload(body_of(chunks), given, [], LIMITS, lambda count: None)


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_fields_come_whole_however_they_arrive(size: int) -> None:
    """Also values that look like boundaries."""
    value = b"\r\n--x\r\n--\r\r\n\x00\xff" * 20
    data = part("image", value, "DOE_JOHN.png") + part("bbox", b"1,2,3,4") + b"--b--\r\n"
    upload = await read(data, size=size)
    assert upload.fields == (("image", b""), ("bbox", b"1,2,3,4"))
    assert upload.image is not None and upload.image.read() == value
    assert upload.size_bytes == len(data)
    assert "DOE" not in repr(upload)


@pytest.mark.parametrize(
    ("data", "content_type", "error"),
    [
        (b"x", "image/png", UnsupportedMediaType),
        (b"x", "", UnsupportedMediaType),
        (b"x", "application/x-www-form-urlencoded", UnsupportedMediaType),
        (b"x", "multipart/form-data", UnsupportedMediaType),
        (b"", TYPE, MalformedRequest),
        (b"garbage without a boundary", TYPE, MalformedRequest),
        (part("image", b"abc"), TYPE, MalformedRequest),
        (b"--b\r\nX: y\r\n\r\nabc\r\n--b--\r\n", TYPE, MalformedRequest),
        (part("bbox", b"1") * 5 + b"--b--\r\n", TYPE, MalformedRequest),
        (part("bbox", b"1" * 2000) + b"--b--\r\n", TYPE, InvalidField),
        (part("image", b"1" * 20_000) + b"--b--\r\n", TYPE, PayloadTooLarge),
    ],
)
async def test_bad_bodies_are_refused(
    data: bytes, content_type: str, error: type[ServiceError]
) -> None:
    """Each by its own error."""
    with pytest.raises(error):
        await read(data, content_type=content_type)


async def test_an_announced_size_is_refused_before_anything_is_read() -> None:
    """With limit and actual size."""
    body = body_of([])
    headers = {"content-type": TYPE, "content-length": "10001"}
    with pytest.raises(PayloadTooLarge, match=r"10000 bytes; 10001"):
        await read_upload(body, headers, [], LIMITS, lambda count: None)
    assert not body.is_complete


async def test_bytes_are_counted_while_they_arrive() -> None:
    """A chunked body announces nothing; reading stops at the limit."""
    given: list[int] = []

    def endless() -> Iterable[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
        while True:
            given.append(1)
            yield b"x" * 1000

    stream = iter(endless())

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": next(stream), "more_body": True}

    body = RequestBody(receive)
    with pytest.raises(PayloadTooLarge, match="10000"):
        await read_upload(body, {"content-type": TYPE}, [], LIMITS, lambda count: None)
    assert len(given) <= 10


async def test_a_caller_who_leaves_is_noticed() -> None:
    """In the middle of the body."""
    with pytest.raises(CallerLeft):
        body = body_of([part("image", b"ab")], breaks=True)
        await read_upload(body, {"content-type": TYPE}, [], LIMITS, lambda count: None)


async def test_the_rest_of_a_refused_body_is_read_away() -> None:
    """And a body that ended is not waited for."""
    body = body_of([b"x"] * 50)
    await body.discard_rest()
    assert body.is_complete
    await body.discard_rest()


async def test_a_refused_caller_who_stops_sending_changes_nothing() -> None:
    """The answer is out; a second error would end the connection with a stack in the log."""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits that long")

    body = RequestBody(receive, idle_timeout_s=0.05)
    await asyncio.wait_for(body.discard_rest(), 30)
    assert body.is_complete


@pytest.mark.parametrize("encoding", ["gzip", "GZIP ", "br", "deflate, gzip", "zstd"])
async def test_a_compressed_body_is_named_as_what_it_is(encoding: str) -> None:
    """Also one that says so and is not: whoever wrote the header meant something by it."""
    data = part("image", b"abc") + b"--b--\r\n"
    with pytest.raises(UnsupportedMediaType, match="Content-Encoding"):
        await read(data, content_encoding=encoding)
    upload = await read(data, content_encoding="identity")
    assert upload.image is not None and upload.image.read() == b"abc"


async def test_only_the_first_image_is_kept_and_every_way_out_gives_it_back() -> None:
    """A form of many images would else hold as many descriptors."""
    held = Blob.held_bytes
    several = part("image", b"first") + part("image", b"second") + b"--b--\r\n"
    with await read(several) as upload:
        assert [name for name, _ in upload.fields] == ["image", "image"]
        assert upload.image is not None and upload.image.read() == b"first"
        assert Blob.held_bytes == held + len(b"first")
    before = len(os.listdir("/proc/self/fd"))
    for refused in (
        part("image", b"abc"),  # no end
        part("image", b"abc") + b"--b\r\nBroken header\r\n\r\n",
        part("image", b"abc") + part("bbox", b"1" * 2000) + b"--b--\r\n",
    ):
        with pytest.raises(ServiceError):
            await read(refused)
    with pytest.raises(CallerLeft):
        leaving = body_of([part("image", b"abc")[:-3]], breaks=True)
        await read_upload(leaving, {"content-type": TYPE}, [], LIMITS, lambda count: None)
    assert (Blob.held_bytes, len(os.listdir("/proc/self/fd"))) == (held, before)


async def test_a_dicom_file_as_the_body_is_kept_as_it_is() -> None:
    """Its options come with the address; whatever refuses it gives it back."""
    headers, query = {"content-type": "application/dicom"}, [("threshold", "0.5")]
    held = Blob.held_bytes
    body = body_of([b"DI", b"CM"])
    with await read_upload(body, headers, query, LIMITS, lambda count: None) as upload:
        assert upload.fields == (("threshold", b"0.5"), ("image", b""))
        assert upload.image is not None and upload.image.read() == b"DICM"
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(PayloadTooLarge):
        large = body_of([b"x" * 6000] * 2)
        await read_upload(large, headers, query, LIMITS, lambda count: None)
    assert (Blob.held_bytes, len(os.listdir("/proc/self/fd"))) == (held, before)


async def test_a_body_that_trickles_is_too_slow_although_every_byte_is_in_time() -> None:
    """Eight such callers would else hold all memory for unfinished uploads."""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    body = RequestBody(receive, idle_timeout_s=0.1)
    with pytest.raises(UploadTooSlow, match="bytes of the upload came"):
        async for _ in body.chunks():
            pass
    assert body.is_complete


@pytest.mark.parametrize("waits", [True, False])
async def test_an_upload_makes_room_whether_it_waits_for_a_piece_or_not(waits: bool) -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(600 if waits and pieces else 0)
        pieces.append(b"x")
        return {"type": "http.request", "body": b"x", "more_body": True}

    pieces: list[bytes] = []
    body = RequestBody(receive)

    async def read_all() -> None:
        async for _ in body.chunks():
            await asyncio.sleep(0)

    reading = asyncio.create_task(read_all())
    while not pieces:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    body.give_way()
    with pytest.raises(UploadTooSlow, match="memory for unfinished uploads is full"):
        await asyncio.wait_for(reading, 5)
    assert body.is_complete
