"""How an earlier version of the code reads picture files: the pixels, or the reason of a refusal.

The code of a commit is extracted from the repository. It reads the files in its own process, with
the libraries that are installed now. Commits since bc5078e have such a reader.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.pictures.orientation import Orientation

_READS = """
import json, os, sys
import numpy as np
import model_store
if not model_store.__file__.startswith(os.getcwd()):
    sys.exit("no model_store in this folder")
from model_store.pictures.picture_reading import read_picture
for number, path in enumerate(json.load(sys.stdin)):
    try:
        picture = read_picture(open(path, "rb").read(), max_pixels=200_000_000)
    except Exception as error:
        found = {"refused": type(error).__name__, "sentence": str(error)}
    else:
        np.save(f"{sys.argv[1]}/{number}.npy", picture.pixels)
        turn = getattr(picture, "orientation", None)
        names = ("is_transposed", "mirrors_columns", "mirrors_rows")
        found = {"turn": [bool(turn and getattr(turn, name)) for name in names]}
    print("FOUND " + json.dumps(found), flush=True)
"""


@dataclass(frozen=True)
class Reading:
    """The result of one version reading one file.

    Attributes:
        pixels: grey values as stored, (H, W); None where the file is refused.
        turn: the turn from the stored to the upright picture.
        refusal: name and message of the error; empty if the file was read.
    """

    pixels: NDArray[Any] | None
    turn: Orientation
    refusal: str

    def equals(self, other: Reading) -> bool:
        """Return whether both readings give a model the same input, or both are refusals."""
        if self.pixels is None or other.pixels is None:
            return self.pixels is other.pixels
        is_equal = self.pixels.dtype == other.pixels.dtype and self.turn == other.turn
        return is_equal and np.array_equal(self.pixels, other.pixels)


@contextmanager
def code_of(commit: str) -> Iterator[Path]:
    """Extract the packages that read pictures, as they were at a commit.

    Yields:
        The folder with the packages.

    Raises:
        subprocess.CalledProcessError: no such commit.
    """
    command = ["git", "archive", commit, "model_store", ":!model_store/models"]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with TemporaryDirectory(prefix="earlier_code_") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(folder, filter="data")
        yield Path(folder)


def read_by(code: Path, files: Sequence[Path]) -> list[Reading]:
    """Read files, in their order, with the version of the code in a folder.

    Raises:
        RuntimeError: that version cannot be run.
    """
    code = code.resolve()
    environment = {**os.environ, "PYTHONPATH": str(code)}
    names = json.dumps([str(file.resolve()) for file in files])
    with TemporaryDirectory(prefix="pixels_") as folder:
        command = [sys.executable, "-W", "ignore", "-c", _READS, folder]
        done = subprocess.run(
            command,
            cwd=code.resolve(),
            env=environment,
            input=names,
            capture_output=True,
            text=True,
        )
        lines = [line[6:] for line in done.stdout.splitlines() if line.startswith("FOUND ")]
        if len(lines) != len(files):
            raise RuntimeError(f"{code} read {len(lines)} of {len(files)} files:\n{done.stderr}")
        return [_reading(json.loads(line), Path(folder) / f"{number}.npy")
                for number, line in enumerate(lines)]  # fmt: skip


def _reading(found: dict[str, Any], pixels: Path) -> Reading:
    if "refused" in found:
        return Reading(None, Orientation(), f"{found['refused']}: {found['sentence']}")
    return Reading(np.load(pixels), Orientation(*found["turn"]), "")
