"""HTTP as the RFCs ask: what is said by hand on a real socket, and how the service takes it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.service.server_process import RunningServer, multipart, running_server
from tests.service.fake_model import picture, png


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, ["--threads", "1"]) as running:
        yield running


def said(server: RunningServer, request: bytes) -> bytes:
    """Sends bytes and returns everything until the service closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def head(line: str, *lines: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def test_an_early_refusal_of_who_waits_for_100_continue_closes(server: RunningServer) -> None:
    answer = said(server, head("POST /segment?x=1", "Expect: 100-continue", "Content-Length: 9"))
    assert answer.startswith(b"HTTP/1.1 4") and b"\r\nconnection: close\r\n" in answer.lower()


def test_a_length_beside_an_encoding_closes(server: RunningServer) -> None:
    lines = ("Transfer-Encoding: chunked", "Content-Length: 5")
    answer = said(server, head("POST /livez", *lines) + b"0\r\n\r\n" + head("GET /livez"))
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_target_in_absolute_form_is_found(server: RunningServer) -> None:
    for target in (f"http://127.0.0.1:{server.port}/livez", "HTTP://x/livez"):
        answer = said(server, head(f"GET {target}", "Connection: close"))
        assert answer.startswith(b"HTTP/1.1 200 ")


def test_what_is_not_http_is_counted(server: RunningServer) -> None:
    def count() -> float:
        text = said(server, head("GET /metrics", "Connection: close")).decode()
        name = 'lungseg_requests_total{code="400",route="unmatched"} '
        return float(text.split(name)[1].split()[0])

    before = count()
    assert said(server, b"NONSENSE\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert count() == before + 1


def posted(server: RunningServer, body: bytes, content_type: str, *lines: str) -> bytes:
    types = (f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "Connection: close")
    return said(server, head("POST /segment", *types, *lines) + body)


def test_several_accept_lines_are_one_list(server: RunningServer) -> None:
    body, content_type = multipart(png(picture()), {})
    answer = posted(server, body, content_type, "Accept: text/html", "Accept: image/png")
    assert answer.startswith(b"HTTP/1.1 200 ") and b"\x89PNG" in answer


def test_a_preamble_and_an_epilogue_are_ignored(server: RunningServer) -> None:
    body, content_type = multipart(png(picture()), {})
    answer = posted(server, b"This is a form.\r\n" + body + b"\r\nEnd.", content_type)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_file_in_another_field_is_told_which_field_it_belongs_to(server: RunningServer) -> None:
    body, content_type = multipart(png(picture(0, (400, 400))), {})
    body = body.replace(b'name="image"', b'name="file"')
    answer = posted(server, body, content_type)
    assert answer.startswith(b"HTTP/1.1 422 ") and b"the X-ray goes into the field image" in answer
