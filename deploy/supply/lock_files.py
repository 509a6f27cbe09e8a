"""Read the lists that `deploy/image/lock.sh` writes.

`cpu.txt` and `torch-cpu.txt` are the CPU image, `cuda.txt` is the CUDA image. `otel.txt` and
`pacs.txt` are the packages that these extras add to either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LOCK_FOLDER = Path(__file__).parents[1] / "image" / "lock"
IMAGES = {"cpu": ("cpu", "torch-cpu"), "cuda": ("cuda",)}
EXTRAS = ("otel", "pacs")

_LOCKED = re.compile(
    r"^([a-z0-9]+(?:-[a-z0-9]+)*)==([^\s;]+)((?:\s*\\?\s*--hash=sha256:[0-9a-f]{64})*)$"
)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Locked:
    """One version of a package, and the SHA-256 of each file that may be installed."""

    name: str
    version: str
    sha256s: tuple[str, ...]

    @property
    def public_version(self) -> str:
        """The version without its build suffix, such as `+cpu`."""
        return self.version.partition("+")[0]


def read_list(name: str, folder: Path = LOCK_FOLDER) -> list[Locked]:
    """Return the packages of one list, in its order.

    Raises:
        ValueError: A line is not a package with an exact version and SHA-256 hashes.
    """
    path = folder / f"{name}.txt"
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    packages = []
    for line in filter(str.strip, text.splitlines()):
        found = _LOCKED.match(re.sub(r"\s+", " ", line.strip()))
        if found is None:
            raise ValueError(f"{path}: not an exact version with hashes: {line.strip()[:80]}")
        packages.append(Locked(found[1], found[2], tuple(_HASH.findall(found[3]))))
    return packages


def of_image(image: str, extras: tuple[str, ...] = (), folder: Path = LOCK_FOLDER) -> list[Locked]:
    """Return the packages of the image `cpu` or `cuda` with these extras, by name."""
    lists = [read_list(name, folder) for name in (*IMAGES[image], *extras)]
    found = {package.name: package for packages in lists for package in packages}
    return [found[name] for name in sorted(found)]


def all_locked(folder: Path = LOCK_FOLDER) -> list[Locked]:
    """Return every package of any image; PyTorch appears once, with its public version."""
    found = {p.name: p for image in IMAGES for p in of_image(image, EXTRAS, folder)}
    return [found[name] for name in sorted(found)]
