"""Callers who hold a connection without sending a request or taking an answer, on real sockets."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.service.server_process import RunningServer, multipart, running_server
from tests.service.fake_model import picture, png

HEADER_TIMEOUT_S = 1.5
FLAGS = [
    "--threads", "1", "--header-timeout-s", str(HEADER_TIMEOUT_S), "--answer-idle-timeout-s", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, FLAGS) as running:
        yield running


def connected(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def received(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_headers_that_trickle_in_are_cut_although_each_byte_is_in_time(
    server: RunningServer,
) -> None:
    with connected(server) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(OSError):
            while time.monotonic() - began < 30:
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.1)
        spent_s = time.monotonic() - began
    assert spent_s > HEADER_TIMEOUT_S * 0.9


def test_who_sends_half_a_head_is_told_408(server: RunningServer) -> None:
    with connected(server) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHos")
        assert received(connection).startswith(b"HTTP/1.1 408 ")


def test_who_sends_nothing_is_cut(server: RunningServer) -> None:
    with connected(server) as connection:
        assert received(connection) == b""


def test_the_second_request_of_a_connection_is_watched_too(server: RunningServer) -> None:
    with connected(server) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while b"alive" not in answer:  # head and body may come in two pieces
            answer += connection.recv(65536)
        connection.sendall(b"GET /livez HT")
        assert received(connection).startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_is_not_a_slow_head(server: RunningServer) -> None:
    body, content_type = multipart(png(picture()), {})
    head = (
        f"POST /segment HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with connected(server) as connection:
        connection.sendall(head.encode() + body[:100])
        time.sleep(HEADER_TIMEOUT_S + 0.5)
        connection.sendall(body[100:])
        assert received(connection).startswith(b"HTTP/1.1 200 ")


def test_two_hundred_of_them_do_not_keep_others_out(server: RunningServer) -> None:
    held = []
    for _ in range(200):
        held.append(connected(server))
        held[-1].sendall(b"POST /segment HTTP/1.1\r\nX: ")  # at once, or it would be cut unheard
    assert server.segment(png(picture()), {}).status == 200
    for connection in held:
        with connection:
            assert received(connection).startswith(b"HTTP/1.1 408 ")


def test_who_takes_nothing_of_an_answer_is_cut(server: RunningServer) -> None:
    """Requests without end, answers unread: the buffers fill, then the connection is reset."""
    with connected(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 60:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
                time.sleep(0.01)
    assert server.segment(png(picture()), {}).status == 200


@pytest.mark.parametrize("head", ["POST /livez", "POST /segment?x=1", "POST /nowhere"])
def test_who_stops_in_a_body_that_was_refused_is_cut(server: RunningServer, head: str) -> None:
    """The answer comes at once; the rest of the body is waited for no longer than for a head."""
    with connected(server) as connection:
        connection.sendall(
            f"{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx".encode()
        )
        answer = received(connection)  # ends only because the service closes
    assert answer.startswith(b"HTTP/1.1 4")


def test_many_connections_with_few_descriptors_keep_nobody_out(tiny_artifact: Path) -> None:
    """300 that send nothing, 256 descriptors: who asks is answered, and the log stays small."""
    with limited_descriptors(256), running_server(tiny_artifact, FLAGS) as server:
        log_bytes = log_size(server)
        held = [connected(server) for _ in range(300)]
        for _ in range(5):
            with connected(server) as connection:
                connection.sendall(
                    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                )
                assert received(connection).startswith(b"HTTP/1.1 200 ")
        assert server.segment(png(picture()), {}).status == 200
        assert log_size(server) - log_bytes < 20_000
        for connection in held:
            connection.close()


@contextmanager
def limited_descriptors(count: int) -> Iterator[None]:
    """Limits the descriptors of processes that are started meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limiting = (
        "import os, resource, sys; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({count}, {count})); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    start = subprocess.Popen

    def limited(command: list[str], **options: Any) -> Any:
        return start([sys.executable, "-c", limiting, *command], **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("benchmarks.service.server_process.subprocess.Popen", limited)
        yield
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def log_size(server: RunningServer) -> int:
    """Bytes that the service has logged: its standard output is a file."""
    return os.stat(f"/proc/{server.process.pid}/fd/1").st_size


def test_stalled_uploads_refuse_nobody_else(tiny_artifact: Path) -> None:
    """Eight of the largest size but for a few bytes, and then nothing: they make room in turn."""
    flags = ["--threads", "1", "--max-upload-bytes", "1000000"]
    body, kind = multipart(png(picture()) + bytes(970_000), {})
    head = "POST /segment HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with running_server(tiny_artifact, flags) as server:
        stalled = [connected(server) for _ in range(8)]
        for connection in stalled:
            connection.sendall(head.encode() + body[:-1000])
        time.sleep(1.5)
        for _ in range(3):
            assert server.segment(png(picture()) + bytes(300_000), {}).status == 200
        assert received(stalled[0]).startswith(b"HTTP/1.1 408 ")
        for connection in stalled:
            connection.close()
