"""Uploads past h11: what arrives and what is answered is the same, however the bytes are cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import h11
import pytest
import uvicorn
from uvicorn.server import ServerState

from service.http.half_closed import HalfClosedConnection
from service.http.known_length_body import KnownLengthBodyConnection

pytestmark = pytest.mark.anyio
BODY = random.Random(1).randbytes(300_000)


class Written(asyncio.Transport):
    """Keeps what a connection writes, and whether it wants to read."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.is_closed = self.is_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.data += bytes(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the digest of the body; at once where the path asks for that."""
    digest, more = sha256(), True
    head = {"type": "http.response.start", "status": 200, "headers": []}
    if scope["path"] == "/early":
        await send(head)
        await send({"type": "http.response.body", "body": b"refused"})
        return
    while more:
        message = await receive()
        digest.update(message["body"])
        more = message["more_body"]
    await send(head)
    await send({"type": "http.response.body", "body": digest.hexdigest().encode()})


def request(body: bytes, path: str = "/", *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


async def answered(
    kind: type[HalfClosedConnection], pieces: Sequence[bytes]
) -> tuple[bytes, bool, Any, int]:
    """Return what a connection answers, whether it closed, h11's state, and bytes that h11 got."""
    config = uvicorn.Config(app, http=kind, ws="none", lifespan="off", log_config=None)
    config.load()
    transport = Written()
    connection = kind(config=config, server_state=ServerState(), app_state={})
    connection.connection_made(transport)
    seen, receive_data = 0, connection.conn.receive_data

    def counted(data: bytes) -> None:
        nonlocal seen
        seen += len(data)
        receive_data(data)

    connection.conn.receive_data = counted  # type: ignore[method-assign]
    for piece in pieces:
        for _ in range(50):
            if not transport.is_paused:
                break
            await asyncio.sleep(0)
        connection.data_received(piece)
    for _ in range(20):
        await asyncio.sleep(0)
    state = (connection.conn.our_state, connection.conn.their_state)
    connection.connection_lost(None)
    return transport.data, transport.is_closed, state, seen


def cut(data: bytes, seed: int) -> list[bytes]:
    chance, pieces = random.Random(seed), []
    while data:
        size = chance.choice((1, 2, 30, 1000, 65_536, 262_144))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


SENT = {
    "two on one connection": request(BODY) + request(BODY[:5000]),
    "in chunks": chunked(BODY) + request(b"abc"),
    "waits for 100": request(BODY, "/", "Expect: 100-continue"),
    "closes": request(BODY, "/", "Connection: close"),
    "no body": request(b"") + request(b"a"),
    "refused at once": request(BODY, "/early") + request(BODY[:7]),
    "longer than it said": request(BODY) + b"garbage\r\n\r\n",
}


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("seed", range(5))
async def test_every_cut_gives_what_h11_gives(name: str, seed: int) -> None:
    pieces = cut(SENT[name], seed)
    *ours, _ = await answered(KnownLengthBodyConnection, pieces)
    *theirs, _ = await answered(HalfClosedConnection, pieces)
    assert ours == theirs
    if name == "two on one connection":
        digests = [sha256(body).hexdigest().encode() for body in (BODY, BODY[:5000])]
        assert [digest in ours[0] for digest in digests] == [True, True]


async def test_h11_sees_head_and_last_piece_alone() -> None:
    whole = request(BODY)
    pieces = [whole[at : at + 10_000] for at in range(0, len(whole), 10_000)]
    *_, state, seen = await answered(KnownLengthBodyConnection, pieces)
    assert state == (h11.IDLE, h11.IDLE)  # ready for the next request
    assert seen <= 20_000
    *_, seen = await answered(HalfClosedConnection, pieces)
    assert seen == len(whole)


async def test_a_full_body_buffer_stops_reading() -> None:
    """Else a caller would fill memory faster than its upload is read."""
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    config.load()
    transport = Written()
    connection = KnownLengthBodyConnection(config=config, server_state=ServerState(), app_state={})
    connection.connection_made(transport)
    connection.data_received(request(BODY)[:100])
    connection.data_received(BODY[:66_000])
    assert transport.is_paused
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not transport.is_paused
    connection.connection_lost(None)
