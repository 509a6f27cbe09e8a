"""Build one data set from several downloads: decode, find duplicates, split, write, all or nothing.

Everything is written into a hidden folder, which is renamed at the end. So a killed run leaves no
partial data set under the final name.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import model_store
from training.errors import DataError
from training.prepare.duplicates import (
    connected,
    links_of_equal_keys,
    near_pairs,
    perceptual_hash,
)
from training.prepare.own.annotation_files import LungsOf
from training.prepare.own.folder import OwnFolder
from training.prepare.pair import MaskFiles, Problem, RawPair
from training.prepare.pixels import PixelError, stored_depth, to_stored
from training.prepare.sources import SOURCES
from training.prepare.splits import SHARES, split_groups

COLUMNS = (
    "name", "split", "source", "structure", "convention", "group", "patient", "license", "width",
    "height", "spacing_mm", "source_width", "source_height", "source_sha256", "perceptual_hash",
)  # fmt: skip

JPEG_QUALITY = 95

FOLDER = "folder"
"""Key of a folder of own X-rays, beside the keys of `SOURCES`."""

FURTHER = "further"
HEART = "heart"
"""Folder of masks of hearts, for ``data.further_masks``."""

_NAMED_PROBLEMS = 20


@dataclass(frozen=True)
class PrepareOptions:
    """Options of the preparation.

    Attributes:
        out: Folder of the data set; must not exist.
        report: CSV of the files that cannot be used.
        longest_side: Longest stored side, in pixels; smaller X-rays are not scaled.
        seed: Seed of the split.
        skip_bad: Whether to skip unusable files.
        workers: Threads that decode; None for one per core.
        own: Options for the source ``folder``, own X-rays, whose 16 bits are kept.
        only: The split that gets all X-rays; empty divides them.
        mask_threshold: Least share of the highest value of an inside pixel of a soft mask; None for
            each layout's own rule, usually exactly two levels.
    """

    out: Path
    report: Path
    longest_side: int = 1024
    seed: int = 0
    skip_bad: bool = False
    workers: int | None = None
    own: OwnFolder | None = None
    only: str = ""
    mask_threshold: float | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that training could not use.

        Raises:
            DataError: Too small.
        """
        if self.mask_threshold is not None and not 0 < self.mask_threshold <= 1:
            raise DataError(f"--mask-threshold {self.mask_threshold} is not above 0 and up to 1")
        if self.longest_side < 64:
            raise DataError(f"--longest-side {self.longest_side} is below 64 pixels")


@dataclass(frozen=True)
class PrepareResult:
    """The result of the preparation.

    Attributes:
        counts: X-rays by source, structure and split.
        problems: Skipped files.
        duplicates: Pairs of one X-ray found by perceptual hash and not by a patient key.
    """

    counts: Mapping[tuple[str, str, str], int]
    problems: tuple[Problem, ...]
    duplicates: int


@dataclass(frozen=True)
class _Stored:
    """A decoded pair in the hidden folder."""

    name: str
    raw: RawPair
    width: int
    height: int
    source_width: int
    source_height: int
    source_sha256: str
    perceptual: NDArray[np.uint64]

    @property
    def spacing_mm(self) -> float | None:
        if self.raw.spacing_mm is None:
            return None
        return self.raw.spacing_mm * max(self.source_width, self.source_height) / max(
            self.width, self.height
        )  # fmt: skip


def prepare(roots: Sequence[tuple[str, Path]], options: PrepareOptions) -> PrepareResult:
    """Write one data set.

    Args:
        roots: Keys of `SOURCES` with the folder of the download.
        options: Options of the preparation.

    Raises:
        DataError: The folder exists, a download has another layout, files are unusable (named, and
            listed in the report) and not skipped, or nothing is left.
    """
    if options.out.exists():
        raise DataError(f"{options.out} exists; a data set is prepared in one go, choose another")
    pairs, problems = _find(roots, options.own)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    work = options.out.parent / f".{options.out.name}.{os.getpid()}.partial"
    work.mkdir()
    try:
        stored, unreadable = _store_all(pairs, work, options)
        problems += unreadable
        _report(problems, options.report)
        if problems and not options.skip_bad:
            raise DataError(_named(problems, options.report))
        if not stored:
            raise DataError(f"nothing is left of {len(pairs)} X-rays; see {options.report}")
        result = _write(stored, tuple(problems), work, options)
        work.rename(options.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return result


def _find(
    roots: Sequence[tuple[str, Path]], own: OwnFolder | None
) -> tuple[list[RawPair], list[Problem]]:
    pairs: list[RawPair] = []
    problems: list[Problem] = []
    for source, root in roots:
        if not root.is_dir():
            raise DataError(f"{root} is no folder")
        found = own.find(root) if own and source == FOLDER else SOURCES[source].find(root)
        pairs += found.pairs
        problems += found.problems
    first: dict[str, RawPair] = {}
    for pair in pairs:
        other = first.setdefault(_stored_name(pair), pair)
        if other is not pair:
            raise DataError(
                f"{other.picture.path} and {pair.picture.path} would both be {_stored_name(pair)}"
            )
    return sorted(pairs, key=_stored_name), problems


def _stored_name(pair: RawPair) -> str:
    return f"{pair.source}_" + re.sub(r"[^A-Za-z0-9._-]+", "_", pair.name)


def _store_all(
    pairs: Sequence[RawPair], work: Path, options: PrepareOptions
) -> tuple[list[_Stored], list[Problem]]:
    for folder in ("images", "masks"):
        (work / folder).mkdir()
    with ThreadPoolExecutor(options.workers) as pool:  # Pillow and NumPy release Python's lock
        results = list(
            pool.map(
                lambda pair: _store(
                    _with_threshold(pair, options.mask_threshold), work, options.longest_side
                ),
                pairs,
            )
        )
    stored = [result for result in results if isinstance(result, _Stored)]
    return stored, [result for result in results if isinstance(result, Problem)]


def _with_threshold(pair: RawPair, threshold: float | None) -> RawPair:
    if threshold is None or not isinstance(pair.mask, MaskFiles):
        return pair
    return dataclasses.replace(pair, mask=dataclasses.replace(pair.mask, threshold=threshold))


def _store(pair: RawPair, work: Path, longest_side: int) -> _Stored | Problem:
    """Decode a pair and write it at its stored size, before the split."""
    name = _stored_name(pair)
    blamed = pair.picture.path
    try:
        picture = pair.picture.read()
        blamed = pair.mask.path
        drawn = pair.mask.read()
        if pair.structure == "lungs" and not drawn.any():
            raise PixelError("the mask is empty")
        if drawn.all():
            raise PixelError("the mask covers the whole picture")
        image, mask = to_stored(picture, drawn, longest_side)
    except PixelError as error:
        return Problem(pair.source, blamed, str(error))
    if picture.dtype == np.uint16 and pair.license is not None:
        deep = stored_depth(picture, longest_side)
        Image.fromarray(deep).save(work / "images" / f"{name}.png")
    else:
        image.save(work / "images" / f"{name}.jpg", quality=JPEG_QUALITY)
    _store_heart(pair, work / FURTHER / HEART / f"{name}.png", image.size)
    mask.convert("1").save(work / "masks" / f"{name}.png")
    digest = hashlib.sha256(pair.picture.path.read_bytes()).hexdigest()
    height, width = picture.shape
    return _Stored(
        name, pair, image.width, image.height, width, height, digest, perceptual_hash(image)
    )


def _store_heart(pair: RawPair, path: Path, size: tuple[int, int]) -> None:
    heart = pair.mask.read_heart() if isinstance(pair.mask, LungsOf) else None
    if heart is None or not heart.any():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    soft = Image.fromarray(heart.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    soft.point(lambda value: 255 if value >= 128 else 0).convert("1").save(path)


def _report(problems: Sequence[Problem], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("source", "file", "reason"))
        writer.writerows((problem.source, problem.path, problem.reason) for problem in problems)


def _named(problems: Sequence[Problem], report: Path) -> str:
    shown = [f"{problem.path}: {problem.reason}" for problem in problems[:_NAMED_PROBLEMS]]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    listed = "\n  ".join(shown)
    return (
        f"{len(problems)} files cannot be used, all listed in {report}; --skip-bad leaves them "
        f"out:\n  {listed}"
    )


def _write(
    stored: Sequence[_Stored], problems: tuple[Problem, ...], work: Path, options: PrepareOptions
) -> PrepareResult:
    """Split the decoded pairs, move them into place and write the manifest."""
    groups, duplicates = _groups(stored)
    strata = {group: "" for group in groups}
    for item, group in zip(stored, groups, strict=True):
        strata[group] = min(strata[group] or "~", f"{item.raw.source} {item.raw.structure}")
    splits = split_groups(Counter(groups), strata, options.seed)
    if options.only:
        splits = dict.fromkeys(splits, options.only)
    for split in SHARES:
        for folder in ("images", "masks"):
            (work / split / folder).mkdir(parents=True)
    with (work / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for item, group in zip(stored, groups, strict=True):
            for folder in ("images", "masks"):
                place = work / splits[group] / folder
                for suffix in (".jpg", ".png"):
                    stored_file = work / folder / f"{item.name}{suffix}"
                    if stored_file.exists():
                        stored_file.rename(place / stored_file.name)
            writer.writerow(_record(item, group, splits[group]))
    for folder in ("images", "masks"):
        (work / folder).rmdir()
    counts: Counter[tuple[str, str, str]] = Counter(
        (item.raw.source, item.raw.structure, splits[group])
        for item, group in zip(stored, groups, strict=True)
    )
    facts = {
        "code_version": model_store.__version__,
        "longest_side": options.longest_side,
        "seed": options.seed,
        "duplicates": duplicates,
        "left_out": len(problems),
    }
    (work / "prepared.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return PrepareResult(counts, problems, duplicates)


def _groups(stored: Sequence[_Stored]) -> tuple[list[str], int]:
    """Return the group of each pair, named by its first member, and the number of duplicates."""
    told = links_of_equal_keys([item.raw.patient for item in stored])
    told += links_of_equal_keys([item.source_sha256 for item in stored])
    seen = near_pairs(np.stack([item.perceptual for item in stored]))
    known = connected(len(stored), told)
    duplicates = sum(known[first] != known[second] for first, second in seen)
    groups = connected(len(stored), [*told, *seen])
    return [stored[first].name for first in groups], duplicates


def _record(item: _Stored, group: str, split: str) -> dict[str, object]:
    spacing = item.spacing_mm
    return {
        "name": item.name,
        "split": split,
        "source": item.raw.source,
        "structure": item.raw.structure,
        "convention": item.raw.convention or "",
        "group": group,
        "patient": item.raw.patient or "",
        "license": item.raw.license or SOURCES[item.raw.source].license,
        "width": item.width,
        "height": item.height,
        "spacing_mm": "" if spacing is None else f"{spacing:.6g}",
        "source_width": item.source_width,
        "source_height": item.source_height,
        "source_sha256": item.source_sha256,
        "perceptual_hash": item.perceptual.tobytes().hex(),
    }
