"""`make pacs` as docs/pacs.md has it: Orthanc, node and service; an X-ray gets its masks."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image

from deploy.orthanc.__main__ import MISSING
from deploy.orthanc.loopback_files import Ports, node_toml
from deploy.orthanc.phantom import PHANTOM, write_phantom
from tests.service.node_peers import free_port, until

ROOT = Path(__file__).parents[2]
needs_programs = pytest.mark.skipif(
    not (shutil.which("Orthanc") or Path("/usr/sbin/Orthanc").exists())
    or shutil.which("storescu") is None,
    reason="Orthanc or DCMTK is not installed: make pacs was NOT tried",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone whose environment is there already: that of these tests."""
    folder = tmp_path / "checkout"
    programs = folder / ".venv-serve" / "bin"
    programs.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "deploy", "examples", "model_store", "service"):
        (folder / name).symlink_to(ROOT / name)
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python").chmod(0o755)
    for mark in ("ready", "pacs-ready"):
        (folder / ".venv-serve" / mark).touch()
    return folder


@contextlib.contextmanager
def pacs(checkout: Path, ports: Ports) -> Generator[tuple[subprocess.Popen[str], str], None, None]:
    """Run `make pacs`; yields the process, and what it printed until all three answered."""
    options = " ".join(f"--{name}-port {port}" for name, port in asdict(ports).items())
    variables = {name: x for name, x in os.environ.items() if not name.startswith("LUNGSEG_")}
    with subprocess.Popen(
        ["make", "pacs", f"OPTIONS={options}", f"PYTHON={sys.executable}"],
        cwd=checkout,
        env=variables | {"PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            said = ""
            while "Ctrl+C" not in said:
                line = process.stdout.readline()
                assert line, f"it ended: {said}"
                said += line
            yield process, said
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def five_ports() -> Ports:
    return Ports(*(free_port() for _ in range(5)))


def listening(ports: Ports) -> list[str]:
    found = []
    for name, port in asdict(ports).items():
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                found.append(name)
    return found


def stored(ports: Ports) -> dict[str, pydicom.Dataset]:
    url = f"http://127.0.0.1:{ports.orthanc}/instances"
    with httpx.Client(trust_env=False) as client:
        files = [client.get(f"{url}/{one}/file").content for one in client.get(url).json()]
    return {one.Modality: one for one in (pydicom.dcmread(io.BytesIO(file)) for file in files)}


@needs_programs
def test_a_newcomer_gets_masks_in_orthanc_by_what_is_printed_and_keeps_them(checkout: Path) -> None:
    ports = five_ports()
    with pacs(checkout, ports) as (process, said):
        assert sorted(listening(ports)) == sorted(asdict(ports))
        (command,) = re.findall(r"^ *(storescu .*)$", said, re.MULTILINE)
        assert none_of_another_address_is_answered(ports, command)
        subprocess.run(shlex.split(command), check=True, timeout=60)
        until(lambda: len(stored(ports)) == 4)
        results = stored(ports)
        assert set(results) == {"CR", "SEG", "OT", "SR"}
        assert len({one.StudyInstanceUID for one in results.values()}) == 1
        assert results["SEG"].NumberOfFrames == 2
        for lung in results["SEG"].pixel_array:
            assert 0.03 < np.mean(lung > 0) < 0.3
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl+C
        process.wait(60)
    assert listening(ports) == []
    with pacs(checkout, ports) as (process, _):
        assert set(stored(ports)) == set(results)
        (runner,) = children_of(process.pid)
        os.kill(runner, signal.SIGKILL)
        until(lambda: listening(ports) == [])


def none_of_another_address_is_answered(ports: Ports, command: str) -> bool:
    """Call Orthanc as another machine would; nothing else listens on another address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return True  # this machine has no other address
        address = asked.getsockname()[0]
    sent = subprocess.run(
        shlex.split(command.replace("127.0.0.1", address)), capture_output=True, check=False
    )
    assert b"Calling AE Title Not Recognized" in sent.stderr
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"http://{address}:{ports.orthanc}/system").status_code == 401
    others = {ports.service, ports.node, ports.metrics}
    with contextlib.ExitStack() as opened:
        calls = [opened.enter_context(socket.socket()) for _ in others]
        pairs = zip(calls, others, strict=True)
        return all(call.connect_ex((address, port)) != 0 for call, port in pairs)


def children_of(parent: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.orthanc", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_programs
def test_one_that_ends_by_itself_stops_the_others_and_its_last_words_are_printed(
    tmp_path: Path,
) -> None:
    ports = five_ports()
    options = [f"--{name}-port={port}" for name, port in asdict(ports).items()]
    (tmp_path / "spool").write_text("no folder")
    done = run(f"--folder={tmp_path}", *options)
    assert done.returncode == 1
    assert "The node ended (3)" in done.stderr and "The node cannot start:" in done.stderr
    assert listening(ports) == []


@needs_programs
def test_a_port_that_is_taken_is_named_with_the_flag_that_takes_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--check", f"--dicom-port={port}")
    assert done.returncode == 2
    assert f"Port {port}" in done.stderr and "--dicom-port" in done.stderr


def test_what_is_to_be_installed_is_what_the_page_says() -> None:
    (line,) = re.findall(r"sudo (apt install .*)", MISSING)
    assert line in (ROOT / "docs" / "pacs.md").read_text()


def test_the_nodes_file_names_no_container(tmp_path: Path) -> None:
    text = node_toml(tmp_path, Ports())
    settings = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", settings)) == {"127.0.0.1"}
    assert "//lungseg" not in settings and 'host = "orthanc"' not in settings


def test_the_phantom_is_a_valid_xray_and_always_the_same(tmp_path: Path) -> None:
    paths = [tmp_path / "one.dcm", tmp_path / "other.dcm"]
    for path in paths:
        write_phantom(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(PHANTOM) as picture:
        assert np.array_equal(
            pydicom.dcmread(paths[0]).pixel_array, np.asarray(picture.convert("L"))
        )
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed: the phantom was NOT checked")
    done = subprocess.run([program, "-new", paths[0]], capture_output=True, text=True, check=False)
    assert [x for x in done.stderr.splitlines() if x.startswith(("Error", "Warning"))] == []
