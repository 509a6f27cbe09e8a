"""Those whom the kernel has connected are accepted before the port is closed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

import httpx
import pytest
import uvicorn

from service.http.listen_queue import waiting_connections
from service.http.server import DrainingServer
from tests.service.fake_model import make_app


def test_the_kernel_says_how_many_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as port, contextlib.ExitStack() as opened:
        assert waiting_connections(port) == 0
        for _ in range(3):
            opened.enter_context(socket.create_connection(port.getsockname()))
        assert waiting_connections(port) == 3
        opened.enter_context(port.accept()[0])
        assert waiting_connections(port) == 2


def test_a_socket_of_another_kind_has_no_queue(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as port:
        port.bind(str(tmp_path / "port"))
        port.listen()
        assert waiting_connections(port) == 0


@pytest.mark.anyio
async def test_who_connected_while_the_process_was_busy_is_answered_at_the_stop() -> None:
    port = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{port.getsockname()[1]}/livez"
    server = DrainingServer(
        uvicorn.Config(make_app(), log_level="critical"),
        on_stop=lambda: None,
        running=lambda: 0,
        must_end=lambda: False,
        drain_timeout_s=20.0,
    )
    serving = asyncio.create_task(server.serve(sockets=[port]))
    async with httpx.AsyncClient(timeout=20) as client:
        assert (await client.get(url)).status_code == 200
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    callers = [socket.create_connection(port.getsockname(), timeout=20) for _ in range(20)]
    for caller in callers:
        caller.sendall(request)
    # The event loop has not turned since: none of them is accepted when the stop comes to its tick.
    assert waiting_connections(port) == 20
    server.handle_exit(signal.SIGTERM, None)
    await server.on_tick(1)
    answers = [await asyncio.to_thread(answer_of, caller) for caller in callers]
    await asyncio.wait_for(serving, 30)
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 200 "}


def answer_of(caller: socket.socket) -> bytes:
    """What comes until the other side closes; empty when it has reset the connection."""
    with caller, contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: caller.recv(65536), b""))
    return b""
