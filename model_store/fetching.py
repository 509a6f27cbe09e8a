"""Fetch a stored model and verify it before it is used.

A model arrives in a temporary folder. It is renamed only after its manifest, weights and golden
mask agree with the index. Only the files of a stored model are extracted from an archive, by their
names, so no archive can write anywhere else.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from model_store.artifact import MANIFEST_FILE, WEIGHTS_FILE, ArtifactError, load_model
from model_store.model_index import MODELS_FOLDER, IndexedModel
from model_store.predictor import Predictor
from model_store.self_test import SelfTestResult, run_self_test

ARTIFACT_FILES = (
    MANIFEST_FILE, WEIGHTS_FILE, "README.md", "golden_image.png", "golden_mask.png",
)  # fmt: skip
DOWNLOAD_TIMEOUT_S = 60
BESIDE_WEIGHTS_BYTES = 2_000_000
"""Bytes by which an archive may exceed the model's weights: manifest, card, golden files."""


class FetchError(Exception):
    """A model could not be fetched; the message says why and what to do."""


def fetch(model: IndexedModel, into: Path, source: str | None = None) -> Path:
    """Fetch a model.

    Args:
        model: Line of the index that names the model.
        into: Folder of models; the model arrives in ``into/NAME/VERSION``.
        source: Source in the form of `IndexedModel.where`, or a plain path; None uses the source in
            the index.

    Returns:
        The folder, which `verify` has accepted.

    Raises:
        FetchError: It exists already, or it cannot be fetched from ``source``.
        ArtifactError: The fetched model is not the one in the index; nothing is kept.
    """
    folder = into / model.name / model.version
    if folder.exists():
        raise FetchError(f"{folder} exists already; `verify` checks it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    arriving = Path(tempfile.mkdtemp(prefix=".arriving-", dir=folder.parent))
    try:
        _take(model, source or model.where, arriving)
        verify(model, arriving)
        arriving.chmod(0o755)
        arriving.rename(folder)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    return folder


def verify(model: IndexedModel, folder: Path) -> SelfTestResult:
    """Prove that a folder holds the model of the index, and that it predicts its golden mask here.

    Raises:
        ArtifactError: It is refused, is another model, or predicts another golden mask.
    """
    _, manifest = load_model(folder)
    found = (manifest.name, manifest.version, manifest.weights.sha256)
    if found != (model.name, model.version, model.sha256):
        raise ArtifactError(
            f"{folder} holds {found[0]}/{found[1]} with weights {found[2]}, "
            f"not {model.label} with {model.sha256}"
        )
    result = run_self_test(Predictor.load(folder, "cpu"), folder)
    if not result.passed:
        raise ArtifactError(
            f"{folder}: the golden mask agrees to {result.agreement:.5f}, "
            f"not to {result.minimum:.5f}"
        )
    return result


def _take(model: IndexedModel, source: str, arriving: Path) -> None:
    kind, _, place = source.partition(":")
    if kind == "git":
        _take_archive(_from_history(model, place), arriving, source)
    elif kind in ("http", "https"):
        _take_archive(_download(model, source), arriving, source)
    else:
        path = Path(place if kind in ("folder", "file") else source)
        _take_path(MODELS_FOLDER / path if kind == "folder" else path, arriving)


def _take_path(path: Path, arriving: Path) -> None:
    if path.is_dir():
        for name in ARTIFACT_FILES:
            if (path / name).is_file():
                shutil.copyfile(path / name, arriving / name)
    elif path.is_file():
        _take_archive(path.read_bytes(), arriving, str(path))
    else:
        raise FetchError(f"{path} is neither a folder nor a file")


def _from_history(model: IndexedModel, commit: str) -> bytes:
    """Return a model's folder from the repository's history, as a tar archive."""
    root = MODELS_FOLDER.parents[1]
    inside = f"{MODELS_FOLDER.parent.name}/{MODELS_FOLDER.name}/{model.label}"
    try:
        known = _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except FileNotFoundError:
        raise FetchError("git is not installed; use --from a folder or an archive") from None
    if known.returncode != 0:
        if _git(root, "rev-parse", "--git-dir").returncode != 0:
            advice = "this is no clone of the repository; use --from a folder or an archive"
        elif _git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true":
            advice = "the history here is shallow; run `git fetch --unshallow`"
        else:
            advice = "run `git fetch`, or use --from a folder or an archive"
        raise FetchError(f"{model.label} is in commit {commit}, which is missing: {advice}")
    archive = _git(root, "archive", "--format=tar", commit, inside)
    if archive.returncode != 0:
        raise FetchError(f"commit {commit} has no folder {inside}")
    return archive.stdout


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)


def _download(model: IndexedModel, address: str) -> bytes:
    most = model.size_bytes + BESIDE_WEIGHTS_BYTES
    try:
        with urllib.request.urlopen(address, timeout=DOWNLOAD_TIMEOUT_S) as answer:
            content: bytes = answer.read(most + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise FetchError(f"{address} cannot be read: {error}") from error
    if len(content) > most:
        raise FetchError(f"{address} is larger than the {most} bytes that {model.label} may have")
    return content


def _take_archive(content: bytes, arriving: Path, source: str) -> None:
    """Extract the files of a stored model from any folder of a tar or zip archive."""
    files = io.BytesIO(content)
    try:
        if zipfile.is_zipfile(files):
            with zipfile.ZipFile(files) as archive:
                for one in archive.infolist():
                    _write_member(arriving, one.filename, archive.read(one))
            return
        files.seek(0)
        with tarfile.open(fileobj=files) as archive_tar:
            for member in archive_tar:
                data = archive_tar.extractfile(member) if member.isfile() else None
                if data is not None:
                    _write_member(arriving, member.name, data.read())
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise FetchError(f"{source} is not a whole tar or zip archive: {error}") from error


def _write_member(arriving: Path, name: str, content: bytes) -> None:
    file = PurePosixPath(name).name
    if file not in ARTIFACT_FILES:
        return
    if (arriving / file).exists():
        raise FetchError(f"the archive holds {file} twice; give one of a single model")
    (arriving / file).write_bytes(content)
