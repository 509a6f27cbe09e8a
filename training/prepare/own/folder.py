"""A folder of own X-rays and masks: pairs, patients and licence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_store.conventions import Convention
from training.data.manifest_file import read_table
from training.errors import ConfigError, DataError
from training.prepare.own.annotation_files import (
    LungsOf,
    XrayOnDisk,
    annotations_of,
    stem_of,
)
from training.prepare.own.labels import Labels
from training.prepare.pair import Found, RawPair, found, matched

_NO_XRAY = (".json", ".csv", ".txt", ".md", ".xml")


@dataclass(frozen=True)
class OwnFolder:
    """Options for reading a folder of own X-rays.

    Attributes:
        name: Name of the source, for manifest and tables.
        license: Licence of X-rays and masks, for manifest and model card.
        convention: Convention of the lungs.
        patient_pattern: Regular expression whose first group, found in a file's name, is the
            patient; empty if names do not contain it.
        patients: CSV with the columns ``image`` and ``patient``, if any.
        mask_threshold: For soft masks, the share of the highest value from which on a pixel is
            inside; None asks for exactly two levels.
    """

    name: str
    license: str
    convention: Convention
    labels: Labels = field(default_factory=Labels)
    patient_pattern: str = ""
    patients: Path | None = None
    mask_threshold: float | None = None

    def __post_init__(self) -> None:
        """Refuse a name that is not a word, a missing licence, and an invalid pattern."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise ConfigError(f"--name is {self.name!r}; it must be letters, digits, - and _")
        if not self.license.strip():
            raise ConfigError("--license must say by which licence the X-rays may be used")
        try:
            groups = re.compile(self.patient_pattern).groups
        except re.error as error:
            raise ConfigError(f"--patient-pattern {self.patient_pattern!r}: {error}") from error
        if self.patient_pattern and groups != 1:
            raise ConfigError(
                f"--patient-pattern {self.patient_pattern!r} has {groups} groups; the one in "
                "brackets is the patient"
            )

    def find(self, root: Path) -> Found:
        """Find X-rays and their annotations.

        X-rays are in ``images/`` or in the folder itself, masks in ``masks/``.

        Raises:
            DataError: There are none, two files have one name, or an X-ray lacks a required
                patient.
        """
        images = root / "images" if (root / "images").is_dir() else root
        pictures = _xrays_of(images)
        annotations = annotations_of(
            root, root / "masks", pictures, self.labels, self.mask_threshold
        )
        both, problems = matched(
            self.name, pictures, {name: one.path for name, one in annotations.items()}
        )
        patients = self._patients(pictures)
        xrays = {name: XrayOnDisk(pictures[name]) for name in both}
        pairs = [
            RawPair(
                self.name, name, xrays[name], LungsOf(annotations[name], xrays[name]),
                convention=self.convention, patient=patients.get(name), license=self.license,
            )
            for name in both
        ]  # fmt: skip
        return found(self.name, root, "images/ with masks/ or annotations", pairs, problems)

    def _patients(self, pictures: Mapping[str, Path]) -> dict[str, str]:
        if self.patients is not None:
            _, records = read_table(self.patients, ("image", "patient"))
            told = {Path(r.fields["image"]).stem: r.fields["patient"].strip() for r in records}
            named = {name: told.get(name, "") for name in pictures}
        elif self.patient_pattern:
            matches = {name: re.search(self.patient_pattern, name) for name in pictures}
            named = {name: match.group(1) if match else "" for name, match in matches.items()}
        else:
            return {name: key for name, path in pictures.items() if (key := _dicom_patient(path))}
        untold = sorted(name for name, patient in named.items() if not patient)
        if untold:
            raise DataError(
                f"{len(untold)} X-rays have no patient, {untold[0]} among them; without one "
                "a patient may train and judge"
            )
        return {name: f"{self.name}_{patient}" for name, patient in named.items()}


def _xrays_of(folder: Path) -> dict[str, Path]:
    """Return the X-rays of a folder by name, without lists and annotations beside them."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        left_out = path.name.startswith(".") or path.suffix.lower() in _NO_XRAY
        if left_out or not path.is_file():
            continue
        name = stem_of(path)
        if name in found:
            raise DataError(f"{found[name]} and {path} have one name; which one is meant?")
        found[name] = path
    return found


def _dicom_patient(path: Path) -> str | None:
    """Return a key of the patient in a DICOM header, which does not reveal the name."""
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
        patient = str(header.get("PatientID", "")).strip()
    except (pydicom.errors.InvalidDicomError, OSError, ValueError, AttributeError, KeyError):
        return None
    return f"dicom_{hashlib.sha256(patient.encode()).hexdigest()[:16]}" if patient else None
