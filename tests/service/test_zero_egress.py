"""No process ever opens a connection to anywhere: an audit hook in each notes every attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.service.server_process import running_server
from tests.service.fake_model import picture, png

HOOK = """
import sys

NAMES = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
         "socket.gethostbyname", "socket.gethostbyaddr")

def note(event, arguments):
    # Descriptors go to image workers through a pair of sockets, without an address.
    if event in NAMES and arguments[1:] != (None,):
        with open({path!r}, "a") as log:
            log.write(f"{{event}} {{arguments[1:]!r}}\\n")

sys.addaudithook(note)
with open({path!r}, "a") as log:
    log.write("watching\\n")
"""


def test_no_outgoing_connection(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "attempts.txt"
    (tmp_path / "sitecustomize.py").write_text(HOOK.format(path=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with running_server(tiny_artifact, ["--threads", "1"]) as server:
        for accept in ("application/json", "image/png"):
            assert server.segment(png(picture()), {}, accept=accept).status == 200
        assert server.segment(b"no image", {}).status == 400
    lines = log.read_text().splitlines()
    assert lines.count("watching") >= 3  # serving process, compute process, template of the workers
    # uvicorn asks nothing by name: the address to listen on is a number.
    assert [line for line in lines if line != "watching"] == []
