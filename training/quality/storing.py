"""A stored model with another quality head: a new version with the same weights and masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from model_store.artifact import load_quality_head, read_manifest
from training.export import all_or_nothing, check_new_version, copied_head
from training.model_card import write_manifest_and_card


def store_with_head(model: Path, head: Path, out: Path, version: str) -> Path:
    """Write ``out/NAME/VERSION``: a stored model with another quality head.

    Weights, golden mask and measurements of masks stay, because no mask changes.

    Args:
        model: Folder of the stored model.
        head: Folder that ``python -m training quality-head`` wrote for it.
        out: Folder of stored models.
        version: Version, a whole number.

    Returns:
        The new folder.

    Raises:
        ArtifactError: The model is refused, or the head does not fit it.
        ConfigError: The version is invalid.
        DataError: The folder holds no head.
        FileExistsError: The version exists; a stored version never changes.
        OSError: It could not be written; nothing stays on disk.
    """
    manifest = read_manifest(model)
    check_new_version(out, manifest.name, version)
    folder = out / manifest.name / version
    with all_or_nothing(folder) as work:
        for file in model.iterdir():
            shutil.copyfile(file, work / file.name)
        named = copied_head(head, work)
        changed = manifest.model_copy(
            update={
                "version": version,
                "quality_head": named,
                "training": {**manifest.training, "quality_head": _recipe(head)},
            }
        )
        write_manifest_and_card(work, changed)
        load_quality_head(work, changed)
    return folder


def _recipe(head: Path) -> dict[str, object]:
    """Return how the head was fitted, from its record."""
    record = json.loads((head / "quality_head.json").read_text(encoding="utf-8"))
    return {name: record[name] for name in ("fitted", "val") if name in record}
