"""The choice of a run's training and validation rows, and its phantoms."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_store.conventions import CONVENTIONS
from model_store.geometry import window_to_uint8
from training.data.checks import check_manifest, check_masks, check_together
from training.data.config import DataConfig
from training.data.dataset import DataRow, LabelledXray, fold_of, load_xrays, rows_of
from training.data.further_masks import with_further_masks
from training.data.manifest_file import ManifestFile, read_manifest
from training.errors import ConfigError, DataError
from training.evaluation.convention_mismatch import mismatched_names
from training.phantom import draw_phantom

PHANTOM_SOURCE = "phantom"


@dataclass(frozen=True)
class Selection:
    """The rows that a run uses.

    Attributes:
        manifests_sha256: Hashes of their manifests, that of ``data.root`` first.
        train: Training rows.
        val: Validation rows.
    """

    manifests_sha256: Sequence[str]
    train: tuple[DataRow, ...]
    val: tuple[DataRow, ...]


def select(config: DataConfig) -> Selection:
    """Choose the rows of a run; nothing is decoded yet.

    Raises:
        ConfigError: A setting names a source or X-rays that the manifest does not have.
        DataError: The manifest cannot be used, or no row is left.
    """
    manifests = [read_manifest(Path(root)) for root in (config.root, *config.also)]
    for one in manifests:
        check_manifest(one)
    check_together(manifests)
    _check_sources(config, manifests)
    manifest, *others = manifests
    train = _wanted_rows(config, manifest, "train")
    for other in others:
        train += rows_of(other, "train", config.structure)
    train = [row for row in train if fold_of(row.group, config.folds) != config.without_fold]
    otherwise = mismatched_names(Path(path) for path in config.convention_mismatch)
    known = {record.fields["name"] for one in manifests for record in one.records}
    if otherwise and not otherwise & known:
        raise ConfigError(
            f"data.convention_mismatch {list(config.convention_mismatch)} lists no X-ray that "
            f"{manifest.path} has"
        )
    train = [row for row in train if row.name not in otherwise]
    if not train:
        setting = "convention_mismatch" if otherwise else "without_fold"
        raise DataError(f"{config.root}: data.{setting} leaves nothing to train on")
    digests = [one.sha256 for one in manifests]
    return Selection(digests, tuple(train), tuple(_wanted_rows(config, manifest, "val")))


def _check_sources(config: DataConfig, manifests: Sequence[ManifestFile]) -> None:
    first, *_ = manifests
    sources = {record.fields["source"] for record in first.records}
    check_known("data.leave_out", config.leave_out, sources, first.path)
    sources |= {record.fields["source"] for one in manifests for record in one.records}
    drawn = {PHANTOM_SOURCE} if config.phantoms else set()
    check_known("data.repeats", config.repeats, sources | drawn, first.path)


def check_known(setting: str, named: Iterable[str], known: Collection[str], path: Path) -> None:
    """Refuse a setting that names a source which a manifest does not have.

    Raises:
        ConfigError: The message names the setting, the source and the known sources.
    """
    for name in named:
        if name not in known:
            alike = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {alike[0]}?)" if alike else ""
            raise ConfigError(
                f"{setting} names {name}{hint}, which {path} does not have; its sources are "
                f"{', '.join(sorted(known))}"
            )


def _wanted_rows(config: DataConfig, manifest: ManifestFile, split: str) -> list[DataRow]:
    rows = rows_of(manifest, split, config.structure)
    rows = [row for row in rows if row.source not in config.leave_out]
    if not rows:
        raise DataError(f"{config.root}: data.leave_out leaves nothing of the split {split!r}")
    return rows


def load_training_xrays(
    config: DataConfig, selection: Selection | None = None
) -> list[LabelledXray]:
    """Read the training X-rays into memory and draw the phantoms.

    Args:
        config: Settings of the data.
        selection: Its rows, if already chosen.

    Raises:
        DataError: A file cannot be read, a mask is empty, or all are of one patient.
    """
    rows = (selection or select(config)).train
    xrays = with_further_masks(load_xrays(rows, config.cached_side), config.further_masks)
    if config.phantoms:
        with ProcessPoolExecutor() as pool:
            seeds = range(config.phantoms)
            sides = itertools.repeat(config.cached_side)
            xrays += pool.map(_draw_labelled_phantom, seeds, sides, chunksize=8)
    check_masks(xrays, "train", empty_is_fine=config.structure != "lungs")
    return xrays


def load_validation_xrays(
    config: DataConfig, selection: Selection | None = None
) -> list[LabelledXray]:
    """Read the validation X-rays, at their own resolution.

    Args:
        config: Settings of the data.
        selection: Its rows, if already chosen.

    Raises:
        DataError: A file cannot be read, or a mask is empty.
    """
    xrays = load_xrays((selection or select(config)).val)
    check_masks(xrays, "val", empty_is_fine=config.structure != "lungs")
    return xrays


def _draw_labelled_phantom(seed: int, longest_side: int) -> LabelledXray:
    """Draw phantom ``seed``; even seeds have one convention, odd seeds the other."""
    convention = CONVENTIONS[seed % len(CONVENTIONS)]
    rng = np.random.default_rng([seed, longest_side])
    sides = rng.integers(3 * longest_side // 4, longest_side + 1, 2)
    phantom = draw_phantom(1000 + seed, (int(sides[0]), int(sides[1])))
    lungs = np.stack([phantom.image_left_lung(convention), phantom.image_right_lung(convention)])
    image = window_to_uint8(phantom.image)
    name = f"phantom_{seed}"
    return LabelledXray(name, PHANTOM_SOURCE, convention, image, lungs, group=name)
