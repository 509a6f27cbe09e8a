"""The commands printed in the README work as printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.service.server_process import running_server
from model_store.model_index import default_model

ROOT = Path(__file__).parents[2]


def test_the_printed_request_saves_an_overlay_and_prints_two_lines(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl: the request of the README was NOT run")
    (code,) = re.findall(r"```sh\n(curl .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with running_server(None, ["--threads", "1"]) as server:
        code = code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
        command = ["bash", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    model, warnings = done.stdout.splitlines()
    assert model == f"model {default_model().label}"
    assert re.fullmatch(r"warnings: [a-z_,]*", warnings)
    with (
        Image.open(tmp_path / "overlay.png") as overlay,
        Image.open(ROOT / "examples" / "phantom.png") as xray,
    ):
        assert overlay.mode == "RGB" and overlay.size == xray.size


def test_the_printed_command_without_a_server_leaves_its_three_pictures(tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text()
    (code,) = re.findall(
        r"```sh\n(\.venv-serve/bin/python -m service\.segment_file .*?)```", page, re.DOTALL
    )
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv-serve" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv-serve" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["files"]) == {"mask", "figure", "overlay"}
    for path in result["files"].values():
        with Image.open(tmp_path / path) as picture:
            assert min(picture.size) >= 1024
    assert result["bbox"] == [100, 100, 924, 924] and result["area_px"] > 0


@pytest.mark.parametrize("target", ["serve", "pacs", "test", "train-env"])
def test_make_has_the_printed_targets(target: str) -> None:
    assert f"make {target} " in (ROOT / "README.md").read_text().replace("\n", " ")
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
