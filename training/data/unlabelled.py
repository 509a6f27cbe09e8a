"""X-rays that nobody annotated: a folder with ``images/`` and ``manifest.csv``.

The manifest names each X-ray and may have its patient, its projection (AP, PA) and whether it is
also in an annotated data set. It is read in any encoding that Excel writes, and the X-rays in any
format that the service reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.manifest_file import MANIFEST, read_table
from training.data.xray_files import files_by_name
from training.errors import DataError


@dataclass(frozen=True)
class UnlabelledXray:
    """One X-ray without masks.

    Attributes:
        name: Name in the manifest.
        patient: The patient; the X-ray's own name if unknown.
        projection: In capitals, such as AP; empty if unknown.
        is_annotated_elsewhere: Whether it is also in an annotated data set.
    """

    name: str
    path: Path
    patient: str
    projection: str
    is_annotated_elsewhere: bool


def read_unlabelled(folder: Path, needs: Sequence[str] = ()) -> list[UnlabelledXray]:
    """Return the X-rays of a folder, in the order of its manifest.

    Args:
        folder: Folder with ``manifest.csv`` and ``images/``.
        needs: Required columns beside ``name``.

    Raises:
        DataError: The manifest is missing, lacks a column or has no rows, an X-ray has no file or
            occurs twice.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise DataError(f"{manifest} is missing")
    _, records = read_table(manifest, ("name", *needs))
    if not records:
        raise DataError(f"{manifest} names no X-rays")
    paths = files_by_name(folder / "images")
    found: dict[str, UnlabelledXray] = {}
    for record in records:
        name = record.fields["name"]
        if name not in paths:
            raise DataError(
                f"{manifest}, line {record.line}: {folder / 'images'} holds no X-ray {name}"
            )
        if name in found:
            raise DataError(f"{manifest}, line {record.line}: {name} comes twice")
        found[name] = UnlabelledXray(
            name,
            paths[name],
            record.fields.get("patient") or name,
            record.fields.get("projection", "").upper(),
            bool(record.fields.get("labelled_split")),
        )
    return list(found.values())
