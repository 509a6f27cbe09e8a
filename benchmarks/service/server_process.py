"""The real server in its own process, and a minimal HTTP client.

The client uses only the standard library, so that measurements need no extra.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 600.0


class ServerFailedError(RuntimeError):
    """The server did not become ready; the message contains the end of its output."""


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes
    seconds: float  # from the start of sending to the last byte received


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready on the loopback interface.

    Attributes:
        readiness: the body of `/readyz`.
        trusted: certificates to trust if it serves HTTPS.
    """

    process: subprocess.Popen[bytes]
    port: int
    readiness: dict[str, Any]
    trusted: ssl.SSLContext | None = None

    def segment(
        self, image: bytes, fields: Mapping[str, str], accept: str = "application/json"
    ) -> Answer:
        """Send one `POST /segment` on a new connection.

        Args:
            image: bytes of the file.
            fields: other form fields.
            accept: media type of the answer.
        """
        body, content_type = multipart(image, fields)
        headers = {"Content-Type": content_type, "Accept": accept}
        began = time.perf_counter()
        status, data = _request(self.port, "POST", "/segment", body, headers, self.trusted)
        return Answer(status, data, time.perf_counter() - began)


@contextmanager
def running_server(
    model: Path | None,
    arguments: Sequence[str] = (),
    trusted: ssl.SSLContext | None = None,
    *,
    program: Sequence[str] = ("service",),
    folder: Path | None = None,
) -> Generator[RunningServer, None, None]:
    """Start `python -m service` on a free port, wait until it is ready, and stop it.

    Args:
        model: model folder; the default model when None.
        arguments: further flags of the service.
        trusted: certificates to trust if the flags make it serve HTTPS.
        program: module to run, and arguments before the flags.
        folder: checkout to run; the one on `PYTHONPATH` if None.

    Raises:
        ServerFailedError: the server ended, or was not ready in time.
    """
    address = ["--host", "127.0.0.1", "--port", "0"]
    command = [sys.executable, "-m", *program, *address, *arguments]
    if model is not None:
        command += ["--model", str(model)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LUNGSEG_")}
    if folder is not None:
        environment["PYTHONPATH"] = str(folder.resolve())
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            yield _wait_until_ready(process, log, trusted)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def multipart(image: bytes, fields: Mapping[str, str]) -> tuple[bytes, str]:
    """Encode a form with one image; return the body and its content type."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
    )
    parts += [image, f"\r\n--{boundary}--\r\n".encode()]
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def _wait_until_ready(
    process: subprocess.Popen[bytes], log: Any, trusted: ssl.SSLContext | None
) -> RunningServer:
    stop_by = time.monotonic() + START_TIMEOUT_S
    port: int | None = None
    while time.monotonic() < stop_by:
        if process.poll() is not None:
            break
        port = port or _announced_port(log)
        if port is not None:
            status, body = _request(port, "GET", "/readyz", None, {}, trusted)
            if status == 200:
                return RunningServer(process, port, json.loads(body), trusted)
        time.sleep(0.05)
    log.seek(0)
    raise ServerFailedError("the server did not become ready; its output: " + log.read()[-2000:])


def _announced_port(log: Any) -> int | None:
    """Read the port from the server's line `listening`."""
    # pread does not move the offset, which parent and child share.
    text = os.pread(log.fileno(), 65536, 0).decode()
    for line in text.splitlines():
        if '"event": "listening"' in line:
            return int(json.loads(line)["url"].rsplit(":", 1)[1])
    return None


def _request(
    port: int,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str],
    trusted: ssl.SSLContext | None,
) -> tuple[int, bytes]:
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
        if trusted is None
        else http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=REQUEST_TIMEOUT_S, context=trusted
        )
    )
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
