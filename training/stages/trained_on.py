"""Counts of a model's training X-rays, from the record of its runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from model_store.manifest import TrainingData
from training.data.dataset import read_rows
from training.data.manifest_file import read_manifest
from training.errors import DataError
from training.stages.base import Base

Counts = Counter[tuple[str, str, str]]
"""X-rays by source, convention and licence."""


def training_data_of(base: Base, data_root: Path | None) -> tuple[tuple[TrainingData, ...], str]:
    """Return counts of training X-rays per source, convention and licence, and their origin.

    Args:
        base: The model with its record.
        data_root: The data set, for a model without a record or for comparison.

    Returns:
        The counts, and ``by name``, or ``at least`` if the stored base model has numbers only, or
        ``whole train split`` of ``data_root``.

    Raises:
        DataError: There is neither a record nor a data set, or they disagree.
    """
    if not base.trained_on and not base.counted_before:
        if base.stage in ("meta", "fresh"):
            return (), "none"
        if data_root is None:
            raise DataError(
                "the checkpoint does not record what it was trained on; name the data set by --data"
            )
        rows = read_rows(data_root, "train")
        known: Counts = Counter((row.source, row.convention, row.license) for row in rows)
        return _entries(known), "whole train split"
    _check_same_manifest(base, data_root)
    counts: Counts = Counter(
        (source, convention, text) for source, convention, text, _ in base.trained_on
    )
    for source, convention, text, images in base.counted_before:
        key = (source, convention, text)
        counts[key] = max(counts[key], images)
    return _entries(counts), "at least" if base.counted_before else "by name"


def _entries(counts: Counts) -> tuple[TrainingData, ...]:
    return tuple(
        TrainingData(source=source, convention=convention, license=text, images=images)
        for (source, convention, text), images in sorted(counts.items())
    )


def _check_same_manifest(base: Base, data_root: Path | None) -> None:
    recorded = base.lineage[-1].get("provenance", {}).get("manifest_sha256")
    if data_root is None or recorded is None:
        return
    manifest = read_manifest(data_root)
    if manifest.sha256 != recorded:
        raise DataError(
            f"{manifest.path} is not the manifest that the run was trained on: its sha256 is "
            f"{manifest.sha256}, the run's {recorded}"
        )
