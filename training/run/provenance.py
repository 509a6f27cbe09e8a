"""Where a run comes from: its rows, the manifest, the code and the command.

Stored with every checkpoint, so that what an artifact says of its training is what was trained on,
and a run that goes on can tell whether its data are still the same.
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
    """Where a run comes from.

    Attributes:
        command: The command line that began it; empty when it was begun from Python.
        code_version: Of this project.
        commit: Of the code, with ``-changed`` where files differ from it; empty without git.
        manifest_sha256: Of the data set's manifest.
        also_sha256: Of the manifests of further data sets that train too.
        train: X-rays that it learns from, number and hash of their names.
        val: Those that it chooses its weights by.
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
    """Return where a run over these rows comes from."""
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
    """Return a short hash of each row by name: what the manifest says, and the files' sizes.

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
    """Return the size of every further mask, by its place in the folders."""
    return {
        f"{place}/{path.relative_to(folder)}": str(path.stat().st_size)
        for place, folder in enumerate(folders)
        for path in sorted(Path(folder).glob("*/*.png"))
    }


def trained_on(rows: Iterable[DataRow], before: Iterable[Sequence[str]] = ()) -> list[list[str]]:
    """Return ``[source, convention, license, name]`` of all that a model has learned from.

    Args:
        rows: Those of this run.
        before: Those of the runs that it goes on from.
    """
    own = ((row.source, row.convention, row.license, row.name) for row in rows)
    return [list(entry) for entry in sorted({*own, *(tuple(entry) for entry in before)})]


def commit_of(folder: Path) -> str:
    """Return the commit that a folder is checked out at; empty where git does not know one."""
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
