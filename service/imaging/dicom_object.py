"""The common parts of DICOM answers: patient and study, dates, equipment, UIDs, the file.

highdicom builds the objects, but it refuses or logs many values of real headers. So it gets a
template without a patient, and the values that `dicom_header` read are added afterwards.
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
# Placeholders for highdicom's UIDs, which `finish` replaces; nobody owns 2.25.0.
SOURCE_CLASS = ComputedRadiographyImageStorage
STUDY, SERIES, SOURCE_SERIES, SOURCE_INSTANCE, INSTANCE = (f"2.25.{n}" for n in range(1, 6))
_UNKNOWN_DEVICE = "unknown"  # the manufacturer is type 1 of contributing equipment
_DATED = (VR.DA, VR.TM, VR.DT)


class NamedModel(Protocol):
    """The model's identity in an object; `model_store.model_info.ModelInfo` has it."""

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
    """The method of a segmentation.

    Attributes:
        convention: convention of the lungs; None for a model with a single one.
        threshold: least probability of a mask pixel; None if it is unknown.
        is_prompted: whether a person gave a box, which makes the method semi-automatic.
    """

    model: NamedModel
    convention: str | None = None
    threshold: float | None = None
    is_prompted: bool = False

    def parameters(self) -> dict[str, str]:
        """Return the parameters that are needed to repeat it, by name."""
        known = {"weights_sha256": self.model.sha256, "convention": self.convention}
        if self.threshold is not None:
            known["threshold"] = f"{self.threshold:g}"
        return {name: value for name, value in known.items() if value}


def template_of(header: SourceHeader) -> Dataset:
    """Return a header for highdicom with the X-ray's size and without patient data.

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
    """Set an attribute without pydicom's checks, whose warnings quote the value.

    Args:
        dataset: data set that gets the attribute.
        keyword: DICOM keyword of the attribute, such as `PatientID`.
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
    """Return an item for a code: value, scheme and meaning."""
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
    """Complete an object built from `template_of` and return its file.

    Args:
        dataset: the object; changed.
        header: the X-ray.
        method: model, convention and threshold of the masks.
        uid_key: secret of the derived UIDs, or nothing.
        kind: kind of object; different kinds never share a UID.
        own_uids: further UIDs in the object to replace.

    Returns:
        A DICOM file, explicit VR little endian, ISO_IR 192. Equal arguments give equal bytes.
    """
    put(dataset, "SpecificCharacterSet", "ISO_IR 192")
    for keyword, value in header.identity.items():
        put(dataset, keyword, value)
    if kind != "SR":  # documents have no body part
        put(dataset, "BodyPartExamined", header.body_part)
    if kind != "PR":  # presentation states have a separate date
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
    """Replace UIDs everywhere, also in sequences.

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

    Dates are left out. They come from the X-ray, so an archive that corrects its dates gets the
    same object with corrected dates.
    """
    undated = Dataset()
    undated.file_meta = dataset.file_meta
    for element in dataset:
        if element.VR not in _DATED:
            undated.add(element)
    return file_bytes(undated)


def _put_equipment(dataset: Dataset, header: SourceHeader) -> None:
    """Name the acquiring machine and the library that wrote the object, without a time."""
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
