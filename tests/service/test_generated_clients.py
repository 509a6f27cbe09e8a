"""Clients that others generate from the OpenAPI file: they compile, and one call gets a mask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.service.server_process import RunningServer, running_server
from tests.service.live_service import url

SOURCES = Path(__file__).parents[1] / "openapi_clients"
JAVA_LIBRARIES = [
    Path("/usr/share/java") / f"{name}.jar"
    for name in ("httpmime", "httpclient", "httpcore", "geronimo-annotation-1.3-spec")
]
NPM = ["--ignore-scripts", "--no-audit", "--no-fund"]


@pytest.fixture(scope="module")
def server(tiny_artifact: Path) -> Iterator[RunningServer]:
    with running_server(tiny_artifact, ["--threads", "1"]) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenAPI file, as the service gives it out."""
    path = tmp_path_factory.mktemp("openapi") / "openapi.json"
    path.write_bytes(httpx.get(url(server, "/openapi.json")).content)
    return path


@pytest.fixture(scope="module")
def xray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xray") / "xray.png"
    pixels = np.random.default_rng(0).integers(0, 256, (96, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if found is None:
        pytest.skip(f"no {name}: a client generated with it was NOT tried")
    return found


def run(*command: str | Path, folder: Path) -> str:
    """What a program says; the test fails where it does."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def generate(language: str, document: Path, out: Path, *options: str) -> None:
    program("java")
    generator = program("openapi-generator-cli")
    run(
        generator, "generate", "-i", document, "-g", language, "-o", out, *options,
        folder=document.parent,
    )  # fmt: skip


def wanted(server: RunningServer, xray: Path) -> str:
    """What every client has to print."""
    answer = server.segment(xray.read_bytes(), {})
    body = httpx.Response(answer.status, content=answer.body).json()
    return f"{body['model']['name']} {body['masks'][0]['area_px']}\n"


def test_java_compiles_and_gets_a_mask(
    server: RunningServer, document: Path, xray: Path, tmp_path: Path
) -> None:
    compiler = program("javac")
    missing = [jar.name for jar in JAVA_LIBRARIES if not jar.exists()]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: the generated Java client was NOT compiled")
    chosen = "openApiNullable=false,useSingleRequestParameter=true"
    options = ("--library", "native", "--additional-properties", chosen)
    generate("java", document, tmp_path, *options)
    generator = find_spec("openapi_generator_cli")  # its archive holds Jackson
    assert generator is not None and generator.origin is not None
    jackson = Path(generator.origin).with_name("openapi-generator.jar")
    classes = os.pathsep.join(map(str, [tmp_path / "classes", jackson, *JAVA_LIBRARIES]))
    sources = [*(tmp_path / "src" / "main").rglob("*.java"), SOURCES / "Call.java"]
    run(compiler, "-d", tmp_path / "classes", "-cp", classes, *sources, folder=tmp_path)
    said = run(program("java"), "-cp", classes, "Call", url(server, ""), xray, folder=tmp_path)
    assert said == wanted(server, xray)


def test_typescript_compiles_and_gets_a_mask(
    server: RunningServer, document: Path, xray: Path, tmp_path: Path
) -> None:
    npm, node = program("npm"), program("node")
    for name in ("package.json", "package-lock.json", "call.ts"):
        shutil.copy(SOURCES / name, tmp_path)
    made = subprocess.run([npm, "ci", *NPM], cwd=tmp_path, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(
            f"npm cannot install: the TypeScript client was NOT tried: {made.stderr[-300:]}"
        )
    tools = tmp_path / "node_modules" / ".bin"
    run(
        tools / "openapi-typescript", document, "--default-non-nullable=false", "-o", "api.d.ts",
        folder=tmp_path,
    )  # fmt: skip
    run(
        tools / "tsc", "--strict", "--target", "es2022", "--module", "nodenext",
        "--lib", "es2022,dom", "call.ts", "api.d.ts", folder=tmp_path,
    )  # fmt: skip
    script = (
        "import { openAsBlob } from 'node:fs'; import { call } from './call.js';"
        f"await call('{url(server, '')}', await openAsBlob('{xray}'));"
    )
    said = run(node, "--input-type=module", "-e", script, folder=tmp_path)
    assert said == wanted(server, xray)


def test_python_is_generated_whole_and_gets_a_mask(
    server: RunningServer, document: Path, xray: Path, tmp_path: Path
) -> None:
    """Without a warning: the generator leaves out what it does not understand."""
    config = tmp_path / "config.yml"
    config.write_text("content_type_overrides:\n  application/dicom: application/octet-stream\n")
    said = run(
        program("openapi-python-client"), "generate", "--path", document, "--config", config,
        "--output-path", tmp_path / "made", "--fail-on-warning", folder=tmp_path,
    )  # fmt: skip
    assert "WARNING" not in said
    shutil.copy(SOURCES / "call.py", tmp_path / "made")
    said = run(sys.executable, "call.py", url(server, ""), xray, folder=tmp_path / "made")
    assert said == wanted(server, xray)


def test_csharp_is_generated(document: Path, tmp_path: Path) -> None:
    generate("csharp", document, tmp_path)
    sources = {path.name for path in (tmp_path / "src").rglob("*.cs")}
    assert {"SegmentationApi.cs", "SegmentAnswer.cs", "SegmentedMask.cs"} <= sources
