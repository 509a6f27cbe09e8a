"""What stays on this machine never goes through a proxy that the environment names.

The proxy of these tests says 200 to everything: whoever asks it believes that all is well.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from service.client import Client
from service.dicom_node.connecting import with_right_proxies
from service.dicom_node.settings import StowDestination
from service.healthcheck import main
from service.http.traces import TraceExport
from service.loopback import is_loopback
from service.request_record import new_record
from tests.service.node_peers import archive, free_port, service, settings_text


@dataclass
class Listener:
    """An HTTP server that says 200 to everything and remembers what it was asked."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def listening() -> Generator[Listener, None, None]:
    made = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            made.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Generator[Listener, None, None]:
    with listening() as made:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, made.url)
            monkeypatch.setenv(name.upper(), made.url)
        for name in ("no_proxy", "NO_PROXY", "REQUEST_METHOD"):
            monkeypatch.delenv(name, raising=False)
        yield made


def test_an_ended_service_is_not_healthy_because_a_proxy_says_so(
    proxy: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNGSEG_PORT", str(free_port()))
    for host in ("127.0.0.1", "0.0.0.0", "localhost"):
        monkeypatch.setenv("LUNGSEG_HOST", host)
        assert main([]) == 1
    assert proxy.asked == []


def test_a_service_that_answers_is_healthy_whatever_the_proxy_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("http_proxy", dead)
    monkeypatch.setenv("HTTP_PROXY", dead)
    monkeypatch.delenv("no_proxy", raising=False)
    with listening() as served:
        monkeypatch.setenv("LUNGSEG_PORT", served.url.rsplit(":", 1)[1])
        assert main([]) == 0
    assert served.asked == ["/readyz"]


def test_the_client_asks_this_machine_directly(proxy: Listener) -> None:
    with service() as asked, Client(asked.url) as client:
        assert client._http.get("/readyz").status_code == 200
    assert proxy.asked == []


def test_the_check_of_a_node_asks_this_machine_directly(proxy: Listener, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    ended = f"http://127.0.0.1:{free_port()}"
    with archive() as to:
        text = settings_text(tmp_path / "spool", ended, to.port, free_port())
        config.write_text(text)
        command = [sys.executable, "-m", "service.dicom_node", "--config", str(config), "--check"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ)
        )
    assert done.returncode == 4 and "does not answer" in done.stdout
    assert proxy.asked == []


def test_a_dicomweb_archive_beside_the_node_is_asked_directly(proxy: Listener) -> None:
    from service.dicom_node.sending import _StowConnection

    with listening() as beside:
        connection = _StowConnection(
            StowDestination(name="a", kind="stow", url=beside.url + "/dicom-web", results=("seg",))
        )
        connection._session.get(connection._url)
        connection.close()
    assert beside.asked == ["/dicom-web"]
    assert proxy.asked == []


def test_other_machines_are_still_reached_through_the_proxy(proxy: Listener) -> None:
    with with_right_proxies(requests.Session()) as session:
        assert session.get("http://archive.example/studies", timeout=10).status_code == 200
    assert proxy.asked == ["http://archive.example/studies"]


def test_traces_reach_a_collector_on_this_machine_directly(proxy: Listener) -> None:
    with listening() as collector:
        export = TraceExport(collector.url)
        export.send(new_record({}), 200)
        export.close()
    assert collector.asked == ["/v1/traces"]
    assert proxy.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "a.localhost."])
def test_these_mean_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "0.0.0.0", "localhost.example", "notlocalhost", ""])
def test_these_mean_others(host: str) -> None:
    assert not is_loopback(host)
