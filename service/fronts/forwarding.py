"""Requests that a front forwards unchanged: every route except those that take an X-ray.

They are forwarded without a body, since none of these routes reads one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope, Send

from service.http.answer_pieces import send_body
from service.workers.framing import Frame, Kind
from service.workers.shared_memory import Blob, BlobWriter

_LINE_END = b"\r\n"
"""A separator that no header can contain."""


def forwarded(number: int, scope: Scope) -> Frame:
    """Return a request as a message; its headers are the message's raw bytes."""
    fields = {
        "number": number,
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "http_version": scope["http_version"],
        "scheme": scope["scheme"],
        "client": scope["client"],
        "server": scope["server"],
    }
    return Frame(Kind.FORWARD, fields, _LINE_END.join(map(b":".join, scope["headers"])))


async def answer_forwarded(app: ASGIApp, frame: Frame) -> tuple[dict[str, Any], Blob]:
    """Let an app answer; return number, status and headers, and the body.

    Args:
        app: the whole app of the serving process.
        frame: message made by `forwarded`.
    """
    fields = frame.fields
    lines = frame.body.split(_LINE_END) if frame.body else []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": fields["http_version"],
        "method": fields["method"],
        "path": fields["path"],
        "raw_path": fields["raw_path"].encode("latin-1"),
        "root_path": "",
        "query_string": fields["query"].encode("latin-1"),
        "headers": [tuple(line.split(b":", 1)) for line in lines],
        "scheme": fields["scheme"],
        "client": None if fields["client"] is None else tuple(fields["client"]),
        "server": None if fields["server"] is None else tuple(fields["server"]),
        "state": {},
    }
    told: dict[str, Any] = {"number": fields["number"], "status": 500, "headers": []}
    writer = BlobWriter()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            told.update(status=message["status"], headers=_as_text(message["headers"]))
        else:
            writer.write(message.get("body", b""))

    try:
        await app(scope, receive, send)
        return told, writer.finish()
    finally:
        writer.close()


async def send_forwarded(send: Send, fields: Mapping[str, Any], body: Blob) -> None:
    """Send the serving process's answer to the caller, and free its memory."""
    with body:
        headers = _as_bytes(fields["headers"])
        await send({"type": "http.response.start", "status": fields["status"], "headers": headers})
        await send_body(send, body)


def _as_text(headers: list[tuple[bytes, bytes]]) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def _as_bytes(headers: list[list[str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
