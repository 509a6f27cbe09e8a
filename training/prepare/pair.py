"""An X-ray with its mask in a download, before decoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.conventions import Convention
from training.data.dataset import Structure
from training.errors import DataError
from training.prepare.pixels import read_grey, read_mask

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif"})


class PictureOnDisk(Protocol):
    """An X-ray that can be decoded."""

    @property
    def path(self) -> Path:
        """The file."""

    def read(self) -> NDArray[np.integer]:
        """Return grey values, uint8 or uint16 (H, W); raise `PixelError` if damaged."""


class MaskOnDisk(Protocol):
    """A mask that can be decoded."""

    @property
    def path(self) -> Path:
        """The file, the first of them when there are several."""

    def read(self) -> NDArray[np.bool_]:
        """Return the mask, bool (H, W); raise `PixelError` if damaged."""


@dataclass(frozen=True)
class PictureFile:
    """An X-ray in an ordinary image file."""

    path: Path

    def read(self) -> NDArray[np.integer]:
        """Return grey values, uint8 or uint16 (H, W)."""
        return read_grey(self.path)


SCALED_MASK = 0.5
"""Threshold for sources with scaled masks, which have soft edges."""


@dataclass(frozen=True)
class MaskFiles:
    """A mask in one or more image files of one size; their union counts.

    Attributes:
        threshold: For soft masks, the share of the highest value from which on a pixel is inside;
            None asks for exactly two levels.
    """

    paths: tuple[Path, ...]
    threshold: float | None = None

    @property
    def path(self) -> Path:
        """The first file."""
        return self.paths[0]

    def read(self) -> NDArray[np.bool_]:
        """Return the union, bool (H, W)."""
        return read_mask(self.paths, self.threshold)


@dataclass(frozen=True)
class RawPair:
    """An X-ray and one mask of it.

    Attributes:
        source: Key of the source, e.g. ``montgomery``.
        name: Name of the pair, unique within its source.
        picture: The X-ray.
        structure: Structure of the mask.
        convention: Convention of the lungs; None for another structure.
        patient: Key of the patient, if known; equal keys are equal patients in every source.
        spacing_mm: Side of a pixel of the X-ray, where known.
        license: Licence, if it differs from the source's.
    """

    source: str
    name: str
    picture: PictureOnDisk
    mask: MaskOnDisk
    structure: Structure = "lungs"
    convention: Convention | None = "lung_field"
    patient: str | None = None
    spacing_mm: float | None = None
    license: str | None = None


@dataclass(frozen=True)
class Problem:
    """A file that cannot be used, and why."""

    source: str
    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """The result of a layout module."""

    pairs: tuple[RawPair, ...]
    problems: tuple[Problem, ...]


def image_files(folder: Path) -> dict[str, Path]:
    """Return the image files directly in a folder, by stem; none if it is missing."""
    if not folder.is_dir():
        return {}
    return {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    }


def folders_named(root: Path, *names: str) -> list[Path]:
    """Return every folder at or below ``root`` of one of these names, upper or lower case."""
    wanted = {name.lower() for name in names}
    below = (path for path in root.rglob("*") if path.is_dir())
    return sorted(path for path in (root, *below) if path.name.lower() in wanted)


def matched(
    source: str, pictures: Mapping[str, Path], masks: Mapping[str, Path]
) -> tuple[list[str], list[Problem]]:
    """Match X-rays and masks by key.

    Returns:
        The keys that have both, in order, and a problem for each file that has no partner.
    """
    problems = [
        Problem(source, pictures[key], "X-ray without a mask")
        for key in sorted(set(pictures) - set(masks))
    ] + [
        Problem(source, masks[key], "mask without an X-ray")
        for key in sorted(set(masks) - set(pictures))
    ]
    return sorted(set(pictures) & set(masks)), problems


def matched_with_both_lungs(
    source: str, pictures: Mapping[str, Path], left: Mapping[str, Path], right: Mapping[str, Path]
) -> tuple[list[str], list[Problem]]:
    """Match X-rays with a mask of each lung; returns as `matched`."""
    with_left, problems = matched(source, pictures, left)
    for stem in sorted(set(left) ^ set(right)):
        lone = left.get(stem) or right[stem]
        problems.append(Problem(source, lone, "mask of one lung without the other"))
    return [stem for stem in with_left if stem in right], problems


def found(
    source: str, root: Path, wanted: str, pairs: Iterable[RawPair], problems: Iterable[Problem]
) -> Found:
    """Build the result of a layout module.

    Args:
        source: Key of the source.
        root: The folder that was searched.
        wanted: Description of the layout, for the message.
        pairs: Pairs of X-ray and mask.
        problems: Files without a partner.

    Raises:
        DataError: There are neither pairs nor problems, so the folder is not this source's.
    """
    result = Found(tuple(pairs), tuple(problems))
    if not result.pairs and not result.problems:
        raise DataError(f"{root} does not look like {source}: there is no {wanted}")
    return result
