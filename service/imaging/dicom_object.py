"""What every DICOM answer has in common: patient and study, dates, equipment, UIDs, the file.

highdicom builds the objects, but reads headers only of one kind: it refuses or logs much of what
real ones hold. So it builds upon a template without a patient, and what the X-ray says is put in
afterwards, as `dicom_header` has read it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import VR

from service.imaging.derived_uids import derive_uid
from service.imaging.dicom_header import SourceHeader

MANUFACTURER = "adalora-qat"
# Stand where highdicom wants UIDs; `finish` replaces them. 2.25.0 is nobody's.
SOURCE_CLASS = ComputedRadiographyImageStorage
STUDY, SERIES, SOURCE_SERIES, SOURCE_INSTANCE, INSTANCE = (f"2.25.{n}" for n in range(1, 6))
_UNKNOWN_DEVICE = "unknown"  # the manufacturer is type 1 of contributing equipment
_DATED = (VR.DA, VR.TM, VR.DT)


class NamedModel(Protocol):
    """What an object says about the model; `model_store.predictor.ModelInfo` fits."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Version of the model."""

    @property
    def sha256(self) -> str:
        """Digest of its weights."""


@dataclass(frozen=True)
class SegmentationMethod:
    """How masks came about.

    Attributes:
        convention: lung convention that it segmented by; None where the model has one.
        threshold: probability from which a pixel belongs to a mask; None where it is not known.
        is_prompted: whether a person gave a box, which makes the method semi-automatic.
    """

    model: NamedModel
    convention: str | None = None
    threshold: float | None = None
    is_prompted: bool = False

    def parameters(self) -> dict[str, str]:
        """Return what is needed beside the model's name to repeat it, by name."""
        known = {"weights_sha256": self.model.sha256, "convention": self.convention}
        if self.threshold is not None:
            known["threshold"] = f"{self.threshold:g}"
        return {name: value for name, value in known.items() if value}


def template_of(header: SourceHeader) -> Dataset:
    """Return an X-ray's header that highdicom takes: its size, and nothing of a patient.

    Args:
        header: the X-ray.
    """
    template = Dataset()
    template.SOPClassUID = SOURCE_CLASS
    template.SOPInstanceUID, template.SeriesInstanceUID = SOURCE_INSTANCE, SOURCE_SERIES
    template.StudyInstanceUID = STUDY
    template.Rows, template.Columns = header.rows, header.columns
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID"):
        setattr(template, keyword, "")
    for keyword in ("AccessionNumber", "StudyDate", "StudyTime", "ReferringPhysicianName"):
        setattr(template, keyword, "")
    return template


def put(dataset: Dataset, keyword: str, value: Any) -> None:
    """Set an attribute without pydicom's checks, which warn with the value in their text.

    Args:
        dataset: gets the attribute.
        keyword: its keyword.
        value: its value, already known to be valid.
    """
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no attribute")
    dataset[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE)


def item(**attributes: Any) -> Dataset:
    """Return an item of a sequence.

    Args:
        attributes: valid values by keyword.
    """
    made = Dataset()
    for keyword, value in attributes.items():
        put(made, keyword, value)
    return made


def coded(code: tuple[str, str, str]) -> Dataset:
    """Return an item that holds a code: its value, its scheme and its meaning."""
    value, scheme, meaning = code
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def finish(
    dataset: Dataset,
    header: SourceHeader,
    method: SegmentationMethod,
    uid_key: str,
    kind: str,
    own_uids: Mapping[str, str] | None = None,
) -> bytes:
    """Complete an object that was built upon `template_of` and return its file.

    Args:
        dataset: the object; changed.
        header: the X-ray.
        method: how the masks came about.
        uid_key: secret of the derived UIDs, or nothing.
        kind: what sort of object it is; different sorts never share a UID.
        own_uids: further UIDs in the object to be replaced.

    Returns:
        A DICOM file, explicit VR little endian, ISO_IR 192. Equal arguments give equal bytes.
    """
    put(dataset, "SpecificCharacterSet", "ISO_IR 192")
    for keyword, value in header.identity.items():
        put(dataset, keyword, value)
    if kind != "SR":  # documents have no body part
        put(dataset, "BodyPartExamined", header.body_part)
    if kind != "PR":  # presentation states have a date of their own
        put(dataset, "ContentDate", header.content_date)
        put(dataset, "ContentTime", header.content_time)
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        if keyword in dataset:
            delattr(dataset, keyword)
    _put_equipment(dataset, header)
    replace_uids(
        dataset,
        {
            SOURCE_CLASS: header.sop_class_uid,
            STUDY: header.study_instance_uid,
            SOURCE_SERIES: header.series_instance_uid,
            SOURCE_INSTANCE: header.sop_instance_uid,
            **(own_uids or {}),
        },
    )
    digest = _bytes_without_dates(dataset)
    model = method.model
    parts = (kind, header.sop_instance_uid, model.sha256, model.name, model.version, digest)
    instance_uid = derive_uid(uid_key, "instance", *parts)
    series_uid = derive_uid(uid_key, "series", *parts)
    replace_uids(dataset, {INSTANCE: instance_uid, SERIES: series_uid})
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(instance_uid)
    return file_bytes(dataset)


def file_bytes(dataset: Dataset) -> bytes:
    """Return a dataset as a DICOM file."""
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def replace_uids(dataset: Dataset, uids: Mapping[str, str]) -> None:
    """Replace UIDs wherever they stand, in sequences too.

    Args:
        dataset: changed.
        uids: old to new.
    """
    for element in list(dataset):
        if element.VR == VR.SQ:
            for item in element.value:
                replace_uids(item, uids)
        elif element.VR == VR.UI and str(element.value) in uids:
            put(dataset, element.keyword, uids[str(element.value)])


def _bytes_without_dates(dataset: Dataset) -> bytes:
    """Return the object's bytes for its digest.

    Dates are left out: they say when, not what. They come from the X-ray, so an archive that
    corrects its dates gets the same object, corrected as well.
    """
    undated = Dataset()
    undated.file_meta = dataset.file_meta
    for element in dataset:
        if element.VR not in _DATED:
            undated.add(element)
    return file_bytes(undated)


def _put_equipment(dataset: Dataset, header: SourceHeader) -> None:
    """Say which machine took the X-ray and which library wrote the object, without a time."""
    import highdicom
    from pydicom.sr.codedict import codes

    equipment = []
    if header.device:
        equipment.append(_equipment(codes.DCM.AcquisitionEquipment, header.device))
    writer = {
        "Manufacturer": "Highdicom open-source contributors",
        "ManufacturerModelName": "highdicom",
        "SoftwareVersions": highdicom.__version__,
    }
    equipment.append(_equipment(codes.DCM.ProcessingEquipment, writer))
    put(dataset, "ContributingEquipmentSequence", equipment)


def _equipment(purpose: Any, device: Mapping[str, str]) -> Dataset:
    described = item(**{"Manufacturer": _UNKNOWN_DEVICE, **device})
    code = (purpose.value, purpose.scheme_designator, purpose.meaning)
    put(described, "PurposeOfReferenceCodeSequence", [coded(code)])
    return described
