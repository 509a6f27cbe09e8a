"""X-rays with lung masks: rows of a manifest, read from disk into memory.

A data set is a folder with ``manifest.csv`` (columns ``name, split, source, convention`` at least)
and ``{split}/images/NAME.*`` and ``{split}/masks/NAME.*``, X-rays in any format that the service
reads. The optional column ``spacing_mm`` gives the side of a pixel in millimetres; an empty field
means unknown. The optional column ``structure`` says what a mask shows; without it all masks show
lungs.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from model_store.conventions import DEFAULT_CONVENTION, Convention, token_of
from model_store.geometry import InputGeometry, window_to_uint8
from training.data.manifest_file import ManifestFile, read_manifest
from training.data.xray_files import files_by_name, read_mask_pixels, read_xray
from training.errors import DataError

if TYPE_CHECKING:
    from training.data.further_masks import FurtherMasks

Structure = Literal["lungs", "infection", "pneumothorax"]
"""The structures that a mask can show."""

STRUCTURES: tuple[Structure, ...] = get_args(Structure)

SMALLEST_LUNG_SHARE = 0.08
"""Least share of the mask of a connected part that counts as a lung; smaller parts are specks of
the annotation or a lobe cut off by its border."""


@dataclass(frozen=True)
class DataRow:
    """One row of the manifest: files of an X-ray and its mask, and the convention of the mask.

    ``group`` is the patient if the manifest has one, otherwise the X-ray itself.
    """

    name: str
    source: str
    convention: Convention
    image_path: Path
    mask_path: Path
    group: str
    spacing_mm: float | None = None
    license: str = "unknown"


@dataclass(frozen=True)
class LabelledXray:
    """An X-ray in memory.

    Attributes:
        name: Name in the manifest.
        source: Its data set.
        convention: Convention of the mask.
        image: Windowed grey values, uint8 (H, W).
        lungs: The lung at the image's left and the one at its right, bool (2, H, W). If the mask
            does not have two parts, the first has all of it and the second is empty.
        group: The patient if known, otherwise the X-ray.
        further: Masks beside that of the manifest, if any.
    """

    name: str
    source: str
    convention: Convention
    image: NDArray[np.uint8]
    lungs: NDArray[np.bool_]
    group: str = ""
    further: FurtherMasks | None = None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Both lungs, bool (H, W)."""
        return np.asarray(self.lungs.any(axis=0))


def read_rows(root: Path, split: str, structure: Structure = "lungs") -> list[DataRow]:
    """Read the rows of one split whose masks show one structure.

    Raises:
        DataError: No manifest, a missing column, an unknown convention or structure, or no such
            rows.
    """
    return rows_of(read_manifest(root), split, structure)


def rows_of(manifest: ManifestFile, split: str, structure: Structure = "lungs") -> list[DataRow]:
    """Return the rows of one split whose masks show one structure.

    Raises:
        DataError: An unknown convention or structure, or no such rows.
    """
    path = manifest.path
    folder = path.parent / split
    images, masks = files_by_name(folder / "images"), files_by_name(folder / "masks")
    rows = [
        _row(path.parent, split, record.fields, images, masks)
        for record in manifest.records
        if structure_of(record.fields, path) == structure and record.fields["split"] == split
    ]
    if not rows:
        raise DataError(f"{path} has no rows of the split {split!r} that show {structure}")
    return rows


def rows_of_conventions(rows: Sequence[DataRow], known: Collection[str]) -> list[DataRow]:
    """Return the rows whose masks follow a convention that a model knows.

    Raises:
        DataError: There is none.
    """
    kept = [row for row in rows if row.convention in known]
    if not kept:
        raise DataError(f"no mask follows {', '.join(known)}, which is all that the model knows")
    return kept


def fold_of(group: str, folds: int) -> int:
    """Return the fold of a patient, independent of other patients."""
    return zlib.crc32(group.encode()) % folds


def structure_of(record: Mapping[str, str], manifest: Path) -> Structure:
    """Return the structure of a row's mask; lungs by default.

    Raises:
        DataError: The structure is unknown.
    """
    named = record.get("structure") or "lungs"
    for structure in STRUCTURES:
        if structure == named:
            return structure
    raise DataError(
        f"{manifest}, row {record['name']!r}: structure is {named!r}; it must be one of "
        f"{', '.join(STRUCTURES)}"
    )


def _row(
    root: Path,
    split: str,
    record: dict[str, str],
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
) -> DataRow:
    name = record["name"]
    # Conventions concern lungs only; other structures train the first mask token.
    convention = record["convention"]
    if not convention and record.get("structure") not in (None, "", "lungs"):
        convention = DEFAULT_CONVENTION
    try:
        token_of(convention)
    except ValueError as error:
        raise DataError(f"{root / 'manifest.csv'}, row {name!r}: {error}") from error
    return DataRow(
        name=name,
        source=record["source"],
        convention=convention,  # type: ignore[arg-type]  # checked above
        image_path=images.get(name, root / split / "images" / f"{name}.jpg"),
        mask_path=masks.get(name, root / split / "masks" / f"{name}.png"),
        group=record.get("group") or name,
        spacing_mm=_spacing(root, record),
        license=record.get("license") or "unknown",
    )


def _spacing(root: Path, record: dict[str, str]) -> float | None:
    text = (record.get("spacing_mm") or "").strip()
    if not text:
        return None
    try:
        spacing = float(text)
    except ValueError:
        spacing = math.nan
    if not 0 < spacing < math.inf:
        raise DataError(
            f"{root / 'manifest.csv'}, row {record['name']!r}: spacing_mm is {text!r}; it must be "
            "a positive number of millimetres, or empty"
        )
    return spacing


def load_xray(row: DataRow, longest_side: int | None = None) -> LabelledXray:
    """Read one X-ray and its mask, scaled down to ``longest_side`` pixels if it is given.

    Raises:
        DataError: A file is missing or unreadable, or image and mask differ in size.
    """
    picture, mask = read_xray(row.image_path), read_mask_pixels(row.mask_path)
    if picture.pixels.shape != mask.shape:
        raise DataError(f"{row.name}: image is {picture.pixels.shape} but its mask is {mask.shape}")
    windowed, mask = window_to_uint8(picture.upright), picture.orientation.apply(mask)
    if longest_side is not None:
        windowed, mask = _scaled(windowed, mask, longest_side)
    lungs = split_lungs(mask)
    return LabelledXray(row.name, row.source, row.convention, windowed, lungs, row.group)


def load_xrays(rows: Sequence[DataRow], longest_side: int | None = None) -> list[LabelledXray]:
    """Read many X-rays, in the order of ``rows``; Pillow decodes outside the interpreter lock."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda row: load_xray(row, longest_side), rows))


def _scaled(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], longest_side: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    height, width = image.shape
    geometry = InputGeometry(width, height, longest_side)
    size = (geometry.resized_width, geometry.resized_height)
    small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(small), scaled_mask(mask, size)


def scaled_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask (H, W) at another width and height; a pixel counts if half of it is inside."""
    if mask.shape == size[::-1]:
        return mask
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(soft) >= 128


def split_lungs(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Split a mask of both lungs into the image's left and right one.

    Args:
        mask: Both lungs, bool (H, W).

    Returns:
        bool (2, H, W). Parts are assigned by their centre of mass, relative to the middle between
        the two largest parts. With fewer than two large parts the first has all.
    """
    labels, count = ndimage.label(mask)
    lungs = np.zeros((2, *mask.shape), dtype=bool)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    large = np.flatnonzero(areas >= SMALLEST_LUNG_SHARE * max(int(mask.sum()), 1)) + 1
    if len(large) < 2:
        lungs[0] = mask
        return lungs
    centres_x = {part: ndimage.center_of_mass(labels == part)[1] for part in range(1, count + 1)}
    two_largest = sorted(large.tolist(), key=lambda part: -areas[part - 1])[:2]
    middle = sum(centres_x[part] for part in two_largest) / 2
    for part, centre in centres_x.items():
        lungs[int(centre > middle)] |= labels == part
    return lungs
