"""`deploy/image/pin.sh` writes digests that a registry gave, all of them or none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "image" / "pin.sh"
FOREIGN = ("python:", "prom/prometheus:", "prom/alertmanager:", "grafana/grafana:")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Dockerfile", "docker-compose.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def pinned(folder: Path, skopeo: str | None) -> subprocess.CompletedProcess[str]:
    """Runs the script with a registry's client that does what the shell lines say."""
    program = folder / "bin" / "skopeo"
    for name in ("bash", "sed", "grep", "sort", "dirname", "sha256sum", "cut"):
        link = folder / "bin" / name
        if not link.exists():
            link.symlink_to(shutil.which(name) or name)
    program.unlink(missing_ok=True)
    if skopeo is not None:
        program.write_text(f"#!/usr/bin/env bash\n{skopeo}\n")
        program.chmod(0o755)
    environment = {"PATH": str(folder / "bin"), "LUNGSEG_PIN_FOLDER": str(folder)}
    return subprocess.run(
        [str(folder / "bin" / "bash"), str(SCRIPT)],
        capture_output=True, text=True, check=False, env=environment, timeout=30,
    )  # fmt: skip


def texts(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in ("Dockerfile", "docker-compose.yml")]


ANSWERS = 'echo "$4" >> "$LUNGSEG_PIN_FOLDER/asked"; '
DIGEST = 'echo "sha256:$(printf %s "$4" | sha256sum | cut -d" " -f1)"'


def test_every_foreign_image_is_pinned_by_what_the_registry_says(folder: Path) -> None:
    before = texts(folder)
    done = pinned(folder, ANSWERS + DIGEST)
    assert done.returncode == 0, done.stderr
    dockerfile, compose = texts(folder)
    for name in FOREIGN:
        found = re.search(rf"{name}[^@\s]+@sha256:[0-9a-f]{{64}}$", dockerfile + compose, re.M)
        assert found is not None, name
    assert "image: adalora-qat:cpu\n" in compose
    without = [re.sub(r"@sha256:[0-9a-f]{64}", "", text) for text in texts(folder)]
    assert without == [re.sub(r"@sha256:[0-9a-f]{64}", "", text) for text in before]
    asked = (folder / "asked").read_text()
    assert "docker://docker.io/library/python:" in asked
    assert "docker://docker.io/prom/prometheus:" in asked
    foreign = re.findall(r"^ +image: (?!adalora-qat:)", before[1], re.M)
    pinned(folder, 'echo "sha256:$(printf %064d 7)"')  # the tags mean other images now
    assert "".join(texts(folder)).count("@sha256:" + "7".rjust(64, "0")) == 1 + len(foreign)


@pytest.mark.parametrize(
    "skopeo",
    [
        "echo no route to the registry >&2; exit 1",
        "echo sha256:short",
        "echo",
        'case $4 in *grafana*) exit 1 ;; *) echo "sha256:$(printf %064d 1)" ;; esac',
        None,
    ],
)
def test_a_digest_that_was_not_resolved_is_never_written(folder: Path, skopeo: str | None) -> None:
    before = texts(folder)
    done = pinned(folder, skopeo)
    assert done.returncode != 0 and "nothing was changed" in done.stderr
    assert texts(folder) == before


def test_the_script_can_be_run_and_says_how() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert "pin.sh" in (ROOT / "docs" / "operations" / "upgrade.md").read_text()
