"""The attributes of an X-ray's header that DICOM answers repeat, validated before the network runs.

Headers come from many devices. Everything that an answer in DICOM repeats is read here once. A
value that cannot be read becomes empty where the standard allows it. An X-ray is refused only if an
identifier that the answer must refer to is invalid; the message names the attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from service.errors import InvalidField
from service.imaging.dicom_plane import (
    NOMINAL_THICKNESS,
    ImagePlane,
    PixelSpacing,
    read_plane,
    read_spacing,
    read_thickness,
)
from service.imaging.dicom_values import HeaderValues

# Type 2 of the patient and study modules: always written, empty if nothing can be read.
_MAY_BE_EMPTY = {
    "PatientID": "LO",
    "PatientName": "PN",
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "AccessionNumber": "SH",
    "StudyID": "SH",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "ReferringPhysicianName": "PN",
}
_OPTIONAL = {
    "IssuerOfPatientID": "LO",
    "PatientBirthTime": "TM",
    "PatientAge": "AS",
    "PatientSize": "DS",
    "PatientWeight": "DS",
    "EthnicGroup": "SH",
    "PatientComments": "LT",
    "PatientIdentityRemoved": "CS",
    "DeidentificationMethod": "LO",
    "StudyDescription": "LO",
    "TimezoneOffsetFromUTC": "SH",
}
_TRIAL = {  # PS3.3 C.7.1.3: all or none
    "ClinicalTrialSponsorName": "LO",
    "ClinicalTrialProtocolID": "LO",
    "ClinicalTrialProtocolName": "LO",
    "ClinicalTrialSiteID": "LO",
    "ClinicalTrialSiteName": "LO",
    "ClinicalTrialSubjectID": "LO",
}
_TRIAL_NEEDS = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialSubjectID")
_SEXES = frozenset({"M", "F", "O"})
_DEVICE = {
    "Manufacturer": "LO",
    "ManufacturerModelName": "LO",
    "DeviceSerialNumber": "LO",
    "SoftwareVersions": "LO",
    "InstitutionName": "LO",
    "StationName": "SH",
}
_MOMENTS = (
    ("ContentDate", "ContentTime"),
    ("AcquisitionDate", "AcquisitionTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)
_NO_DATE, _NO_TIME = "19000101", "000000"
_DIRECTIONS = frozenset("APRLHF")
_OFFSETS = range(-1200, 1401)


@dataclass(frozen=True)
class SourceHeader:
    """The readable part of an X-ray's header, all of it valid.

    Attributes:
        sop_class_uid: kind of the X-ray.
        rows: height in pixels.
        columns: width in pixels.
        identity: patient and study by keyword; empty strings for invalid or absent values.
        device: the acquiring machine, by keyword.
        content_date: date of the X-ray's content, `YYYYMMDD`.
        body_part: code of the body part; `CHEST` if the X-ray has none.
        patient_orientation: directions of its rows and columns; none where unknown.
        plane: its own plane in the patient, if it has one.
        spacing: size of its pixels, if known.
        slice_thickness: thickness of its plane in mm, as a decimal string.
        lossy: its lossy compression by keyword; empty for none.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    rows: int
    columns: int
    identity: Mapping[str, str]
    device: Mapping[str, str] = field(default_factory=dict)
    content_date: str = _NO_DATE
    content_time: str = _NO_TIME
    body_part: str = "CHEST"
    patient_orientation: tuple[str, ...] = ()
    plane: ImagePlane | None = None
    spacing: PixelSpacing | None = None
    slice_thickness: str = NOMINAL_THICKNESS
    lossy: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_source_header(dataset: Dataset) -> SourceHeader:
    """Read the attributes that an answer in DICOM repeats.

    Args:
        dataset: header of a decoded X-ray, whose size is therefore valid.

    Raises:
        InvalidField: an identifier that the answer must refer to is missing or not a UID; the
            message names the attribute, never its value.
    """
    values = HeaderValues(dataset)
    date, time = _content_moment(values)
    return SourceHeader(
        sop_class_uid=_uid(values, dataset, "SOPClassUID"),
        sop_instance_uid=_uid(values, dataset, "SOPInstanceUID"),
        series_instance_uid=_uid(values, dataset, "SeriesInstanceUID"),
        study_instance_uid=_uid(values, dataset, "StudyInstanceUID"),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        identity=_identity(values),
        device=_found(values, _DEVICE),
        content_date=date,
        content_time=time,
        body_part=values.one("BodyPartExamined", "CS") or "CHEST",
        patient_orientation=_patient_orientation(values),
        plane=read_plane(values),
        spacing=read_spacing(values),
        slice_thickness=read_thickness(values) or NOMINAL_THICKNESS,
        lossy=_lossy(values),
    )


def _uid(values: HeaderValues, dataset: Dataset, keyword: str) -> str:
    """Return a UID; the object's own may also be in the file meta information."""
    found = values.one(keyword, "UI")
    if found is None and keyword.startswith("SOP"):
        meta = getattr(dataset, "file_meta", None)
        found = None if meta is None else HeaderValues(meta).one(f"MediaStorage{keyword}", "UI")
    if found is None:
        raise InvalidField(
            f"The DICOM image's {keyword} is missing or not a UID, so that an object cannot refer "
            "to it; ask for JSON or PNG instead."
        )
    return found


def _identity(values: HeaderValues) -> dict[str, str]:
    identity = {
        keyword: values.one(keyword, representation) or ""
        for keyword, representation in _MAY_BE_EMPTY.items()
    }
    if identity["PatientSex"] not in _SEXES:
        identity["PatientSex"] = ""
    identity |= _found(values, _OPTIONAL)
    if not _is_offset(identity.get("TimezoneOffsetFromUTC", "")):
        identity.pop("TimezoneOffsetFromUTC", None)
    if identity.get("PatientIdentityRemoved") not in ("YES", "NO"):
        identity.pop("PatientIdentityRemoved", None)
    elif identity["PatientIdentityRemoved"] == "YES":  # type 1C of the patient module
        identity.setdefault("DeidentificationMethod", "As the source image")
    return identity | _trial(values)


def _trial(values: HeaderValues) -> dict[str, str]:
    trial = {keyword: values.one(keyword, kind) or "" for keyword, kind in _TRIAL.items()}
    return trial if all(trial[keyword] for keyword in _TRIAL_NEEDS) else {}


def _found(values: HeaderValues, keywords: Mapping[str, str]) -> dict[str, str]:
    read = {keyword: values.one(keyword, kind) for keyword, kind in keywords.items()}
    return {keyword: value for keyword, value in read.items() if value is not None}


def _content_moment(values: HeaderValues) -> tuple[str, str]:
    """Return the date and time of the content.

    Without any date it is the dummy date of de-identification (PS3.15 E.1-1). With the current
    time, repeated requests would give different objects.
    """
    for date_keyword, time_keyword in _MOMENTS:
        date = values.one(date_keyword, "DA")
        if date is not None:
            return date, values.one(time_keyword, "TM") or _NO_TIME
    return _NO_DATE, _NO_TIME


def _is_offset(text: str) -> bool:
    is_written = len(text) == 5 and text[0] in "+-" and text[1:].isdigit() and text[3] < "6"
    return is_written and text != "-0000" and int(text) in _OFFSETS


def _patient_orientation(values: HeaderValues) -> tuple[str, ...]:
    found = values.several("PatientOrientation", "CS")
    is_valid = len(found) == 2 and all(set(one) <= _DIRECTIONS and len(one) <= 3 for one in found)
    return found if is_valid else ()


def _lossy(values: HeaderValues) -> dict[str, tuple[str, ...]]:
    if values.one("LossyImageCompression", "CS") != "01":
        return {}
    ratios = values.several("LossyImageCompressionRatio", "DS")
    methods = values.several("LossyImageCompressionMethod", "CS")
    return {
        "LossyImageCompressionRatio": ratios,
        "LossyImageCompressionMethod": methods if len(methods) == len(ratios) else (),
    }
