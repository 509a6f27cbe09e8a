"""Each program printed in `docs/integration.md` is compiled and run against a real service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.service.server_process import RunningServer, running_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "integration.md").read_text(encoding="utf-8")
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, ["--threads", "1"]) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the `xray.png` that the programs send."""
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1000), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "xray.png")
    return tmp_path


def printed(language: str, server: RunningServer) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert "127.0.0.1:8000" in code
    return code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")


def installed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program}: its program of docs/integration.md was NOT run")
    return found


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
        timeout=TIMEOUT_S,
    )  # fmt: skip


def by_curl(code: str, folder: Path) -> list[str]:
    installed("curl")
    return ["bash", "-c", code]


def by_python(code: str, folder: Path) -> list[str]:
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "lungseg_client").symlink_to(ROOT / "service" / "client")
    (folder / "segment.py").write_text(code)
    return [sys.executable, "segment.py"]


def by_node(code: str, folder: Path) -> list[str]:
    (folder / "segment.mjs").write_text(code)
    return [installed("node"), "segment.mjs"]


def by_java(code: str, folder: Path) -> list[str]:
    (folder / "Segment.java").write_text(code)
    return [installed("java"), "Segment.java"]


def by_mono(code: str, folder: Path) -> list[str]:
    (folder / "Segment.cs").write_text(code)
    compiled = run([installed("mcs"), "-r:System.Net.Http.dll", "Segment.cs"], folder)
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    return [installed("mono"), "Segment.exe"]


LANGUAGES: dict[str, Callable[[str, Path], list[str]]] = {
    "sh": by_curl, "python": by_python, "javascript": by_node, "java": by_java, "csharp": by_mono,
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_printed_program_gets_a_mask(
    server: RunningServer, folder: Path, language: str
) -> None:
    command = LANGUAGES[language](printed(language, server), folder)
    done = run(command, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(folder / "mask.png") as mask:
        assert mask.size == (1000, 1000) and mask.mode == "L"
        assert set(np.unique(np.asarray(mask))) <= {0, 255}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_printed_program_fails_with_the_services_own_words(
    server: RunningServer, folder: Path, language: str
) -> None:
    (folder / "xray.png").write_bytes(b"no picture")
    command = LANGUAGES[language](printed(language, server), folder)
    done = run(command, folder)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    if language == "sh":
        said += (folder / "mask.png").read_text()  # where curl puts the body
    else:
        assert not (folder / "mask.png").exists()
    assert "undecodable_image" in said


def test_every_program_on_the_page_is_run() -> None:
    assert set(re.findall(r"```(\w+)\n", PAGE)) == set(LANGUAGES)
