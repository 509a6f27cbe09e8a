"""Checks of a data set before training and evaluation.

A patient in both training and evaluation, a repeated row or an empty mask would silently change a
result. Each is refused before the first step, and the message names it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from training.data.dataset import LabelledXray, structure_of
from training.data.manifest_file import SPLITS, ManifestFile
from training.errors import DataError

_NAMED = 5


def check_manifest(manifest: ManifestFile) -> None:
    """Refuse repeated rows, patients in two splits, and unknown splits.

    Raises:
        DataError: The message names the rows or patients.
    """
    seen: dict[tuple[str, str], int] = {}
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for record in manifest.records:
        fields = record.fields
        name, split = fields["name"], fields["split"]
        where = f"{manifest.path}, line {record.line}"
        if not name.strip():
            raise DataError(f"{where}: the name is empty")
        if split not in SPLITS:
            raise DataError(f"{where}: split is {split!r}; it must be one of {', '.join(SPLITS)}")
        key = (name, structure_of(fields, manifest.path))
        if key in seen:
            raise DataError(f"{where}: {name} stands there twice, in line {seen[key]} too")
        seen[key] = record.line
        splits[fields.get("group") or name].add(split)
    divided = [group for group, found in splits.items() if len(found) > 1]
    if divided:
        found = "; ".join(
            f"{group} in {' and '.join(sorted(splits[group]))}" for group in divided[:_NAMED]
        )
        more = f" and {len(divided) - _NAMED} more" if len(divided) > _NAMED else ""
        raise DataError(
            f"{manifest.path}: {len(divided)} patients stand in two splits, so the result would "
            f"be of X-rays that were trained on: {found}{more}"
        )


def check_together(manifests: Sequence[ManifestFile]) -> None:
    """Refuse combined data sets that share a name, or a patient of training and evaluation.

    Raises:
        DataError: The message names the row or the patient.
    """
    names: dict[tuple[str, str], ManifestFile] = {}
    judging: dict[str, ManifestFile] = {}
    for manifest in manifests:
        for record in manifest.records:
            key = (record.fields["name"], structure_of(record.fields, manifest.path))
            other = names.setdefault(key, manifest)
            if other is not manifest:
                raise DataError(f"{key[0]} stands in {other.path} and in {manifest.path}")
            if record.fields["split"] != "train":
                judging[record.fields.get("group") or record.fields["name"]] = manifest
    for manifest in manifests:
        for record in manifest.records:
            group = record.fields.get("group") or record.fields["name"]
            other = judging.get(group, manifest)
            if record.fields["split"] == "train" and other is not manifest:
                raise DataError(
                    f"{group} trains in {manifest.path} and judges in {other.path}: one patient in "
                    "two splits"
                )


def check_masks(xrays: Sequence[LabelledXray], split: str, *, empty_is_fine: bool) -> None:
    """Refuse X-rays that cannot be used for training or evaluation.

    Args:
        xrays: X-rays of one split.
        split: Its name.
        empty_is_fine: Whether a mask may be empty, as for an X-ray without a pneumothorax.

    Raises:
        DataError: A mask of lungs is empty or covers the whole X-ray, or every X-ray of ``train``
            is of one patient.
    """
    _refuse(split, "an empty mask", (x.name for x in xrays if not x.mask.any()), empty_is_fine)
    _refuse(split, "a mask of the whole X-ray", (x.name for x in xrays if x.mask.all()))
    if split == "train" and len({xray.group for xray in xrays}) == 1:
        raise DataError(
            f"{split} is of one patient, {xrays[0].group}; a model would learn that patient by "
            "heart"
        )


def _refuse(split: str, what: str, names: Iterable[str], is_fine: bool = False) -> None:
    found = [] if is_fine else list(names)
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise DataError(f"{split}: {', '.join(found[:_NAMED])}{more} with {what}")
