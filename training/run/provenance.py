"""Provenance of a run: its rows, the manifest, the code and the command.

It is stored with every checkpoint. So an artifact's record of its training data is correct, and a
resumed run can check that its data are unchanged.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import model_store
from training.data.dataset import DataRow
from training.errors import DataError
from training.run.selection import Selection

_DIGEST_CHARACTERS = 16


@dataclass(frozen=True)
class Provenance:
    """Provenance of a run.

    Attributes:
        command: The command line that began it; empty if begun from Python.
        code_version: Version of this project.
        commit: Commit of the code, with ``-changed`` if files differ from it; empty without git.
        manifest_sha256: Hash of the data set's manifest.
        also_sha256: Hashes of the manifests of further training data sets.
        train: Number of training X-rays, and hash of their names.
        val: The same of the validation X-rays.
    """

    command: str
    code_version: str
    commit: str
    manifest_sha256: str
    also_sha256: Sequence[str] = ()
    train: Mapping[str, Any] = field(default_factory=dict)
    val: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for checkpoints and JSON."""
        return asdict(self)


def provenance_of(selection: Selection, command: str = "") -> Provenance:
    """Return the provenance of a run over these rows."""
    return Provenance(
        command=command,
        code_version=model_store.__version__,
        commit=commit_of(Path(__file__).parent),
        manifest_sha256=selection.manifests_sha256[0],
        also_sha256=list(selection.manifests_sha256[1:]),
        train=_summary(selection.train),
        val=_summary(selection.val),
    )


def _summary(rows: Sequence[DataRow]) -> dict[str, Any]:
    return {"xrays": len(rows), "names_sha256": names_sha256(row.name for row in rows)}


def names_sha256(names: Iterable[str]) -> str:
    """Return one hash of names: of their lines in order, UTF-8."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def row_digests(rows: Iterable[DataRow]) -> dict[str, str]:
    """Return a short hash of each row by name, of its manifest entries and its files' sizes.

    Raises:
        DataError: A file is missing.
    """
    return {row.name: _row_digest(row) for row in rows}


def _row_digest(row: DataRow) -> str:
    try:
        sizes = [path.stat().st_size for path in (row.image_path, row.mask_path)]
    except OSError as error:
        raise DataError(f"{row.name}: {error.filename} cannot be read: {error.strerror}") from error
    facts = [row.source, row.convention, row.group, str(row.spacing_mm), *map(str, sizes)]
    return hashlib.sha256("\t".join(facts).encode()).hexdigest()[:_DIGEST_CHARACTERS]


def further_mask_digests(folders: Iterable[str]) -> dict[str, str]:
    """Return the size of every further mask, by its path in the folders."""
    return {
        f"{place}/{path.relative_to(folder)}": str(path.stat().st_size)
        for place, folder in enumerate(folders)
        for path in sorted(Path(folder).glob("*/*.png"))
    }


def trained_on(rows: Iterable[DataRow], before: Iterable[Sequence[str]] = ()) -> list[list[str]]:
    """Return ``[source, convention, license, name]`` of all training X-rays of a model.

    Args:
        rows: Rows of this run.
        before: X-rays of the runs that it continues.
    """
    own = ((row.source, row.convention, row.license, row.name) for row in rows)
    return [list(entry) for entry in sorted({*own, *(tuple(entry) for entry in before)})]


def commit_of(folder: Path) -> str:
    """Return the checked-out commit of a folder; empty without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}-changed" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True,
        timeout=20,
    )  # fmt: skip
    return done.stdout.strip()
