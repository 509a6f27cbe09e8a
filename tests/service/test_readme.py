"""The request printed in the README works as printed."""

from __future__ import annotations

import re
import shutil
import subprocess
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
