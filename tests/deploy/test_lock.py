"""The images install what `deploy/image/lock/` names, by hash, and the lists are complete."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.supply.lock_files import EXTRAS, IMAGES, LOCK_FOLDER, all_locked, of_image, read_list

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "image" / "lock.sh"
ON_THE_IMAGES = {
    "platform_machine": "x86_64",
    "sys_platform": "linux",
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "platform_system": "Linux",
    "extra": "",
}


def required(extra: str | None) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate(ON_THE_IMAGES)]


@pytest.mark.parametrize(
    ("image", "extra"),
    [("cuda", "cuda"), *((image, extra) for image in IMAGES for extra in (None, *EXTRAS))],
)
def test_all_that_the_project_asks_for_is_locked_at_a_version_that_it_allows(
    image: str, extra: str | None
) -> None:
    extras = (extra,) if extra in EXTRAS else ()
    locked = {one.name: one for one in of_image(image, extras)}
    for requirement in required(extra):
        found = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(found.version), f"{requirement} but {found.version}"


def test_each_file_has_a_hash_but_for_the_one_whose_index_is_not_pypi() -> None:
    without = [
        f"{one.name}=={one.version}"
        for name in (*EXTRAS, *{part for parts in IMAGES.values() for part in parts})
        for one in read_list(name)
        if not one.sha256s
    ]
    assert without in ([], [f"torch=={torch_of('cuda')}+cpu"])
    assert len(all_locked()) > 60


def torch_of(image: str) -> str:
    (torch,) = (one for one in of_image(image) if one.name == "torch")
    return torch.version


def test_both_images_have_the_same_versions_and_the_cpu_image_nothing_for_gpus() -> None:
    cpu = {one.name: one.public_version for one in of_image("cpu", EXTRAS)}
    cuda = {one.name: one.public_version for one in of_image("cuda", EXTRAS)}
    for name in cpu.keys() & cuda.keys():
        assert cpu[name] == cuda[name], name
    assert torch_of("cpu") == torch_of("cuda") + "+cpu"
    assert not [name for name in cpu if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert cpu.keys() < cuda.keys()


def test_the_dockerfile_installs_nothing_that_the_lock_does_not_name() -> None:
    text = (ROOT / "Dockerfile").read_text()
    calls = re.findall(r"pip install ([^\n]*?)(?: \\)?$", text, re.MULTILINE)
    assert len(calls) == 5
    for call in calls:
        assert "--no-deps" in call, call
        assert "--require-hashes" in call or "torch-cpu.txt" in call or call.endswith(" ."), call


def lists_of(extras: str, first: str) -> str:
    """What the Dockerfile's own line makes of `EXTRAS`."""
    line = re.search(rf'RUN (lists=\$\(echo "{first},.*\))', (ROOT / "Dockerfile").read_text())
    assert line is not None
    command = line[1] + "; echo $lists"
    environment = {**os.environ, "EXTRAS": extras}
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


@pytest.mark.parametrize("first", IMAGES)
def test_the_extras_of_an_image_become_lists(first: str) -> None:
    assert lists_of("", first) == f"-r lock/{first}.txt"
    expected = f"-r lock/{first}.txt -r lock/otel.txt -r lock/pacs.txt"
    assert lists_of("otel,pacs", first) == expected


@pytest.mark.parametrize(
    "line", ["numpy>=2", "numpy==2.4.6 --hash=md5:00", "git+https://x/y", "-e ."]
)
def test_a_list_with_anything_but_exact_versions_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "cpu.txt").write_text(f"# a comment\nh11==0.16.0\n{line}\n")
    with pytest.raises(ValueError, match="not an exact version with hashes"):
        read_list("cpu", tmp_path)


def locked_by(tmp_path: Path, uv: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Runs the script with a `uv` that does what the shell lines say."""
    folder, programs = tmp_path / "lock", tmp_path / "bin"
    shutil.copytree(LOCK_FOLDER, folder)
    programs.mkdir()
    (programs / "uv").write_text(f"#!/usr/bin/env bash\n{uv}\n")
    (programs / "uv").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LUNGSEG_LOCK_FOLDER": str(folder),
    }
    done = subprocess.run(
        [str(SCRIPT)], capture_output=True, text=True, check=False, env=environment, timeout=30
    )
    return done, folder


NO_TORCH_INDEX = '[[ "$*" == *pytorch.org* ]] && { echo no route >&2; exit 2; }; exit 0'


def test_a_hash_that_no_index_gave_is_never_written(tmp_path: Path) -> None:
    before = {path.name: path.read_text() for path in LOCK_FOLDER.iterdir()}
    done, folder = locked_by(tmp_path, NO_TORCH_INDEX)
    assert done.returncode == 0, done.stderr
    assert "was not reached" in done.stderr
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_nothing_is_changed_when_pypi_is_not_reached(tmp_path: Path) -> None:
    before = {path.name: path.read_text() for path in LOCK_FOLDER.iterdir()}
    done, folder = locked_by(tmp_path, "echo no route >&2; exit 2")
    assert done.returncode != 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_a_hash_that_pytorch_s_index_gave_is_written(tmp_path: Path) -> None:
    given = f"torch=={torch_of('cuda')}+cpu --hash=sha256:{'7' * 64}"
    writes = (
        f'while [ $# -gt 1 ]; do [ "$1" = --output-file ] && echo "{given}" > "$2"; shift; done'
    )
    done, folder = locked_by(tmp_path, f'[[ "$*" == *pytorch.org* ]] && {{ {writes}; }}; exit 0')
    assert done.returncode == 0, done.stderr
    (torch,) = read_list("torch-cpu", folder)
    assert torch.sha256s == ("7" * 64,)
