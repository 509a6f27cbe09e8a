"""Measurements of the masks as a DICOM Structured Report (TID 1500, PS3.16), with their warnings.

Each group of measurements refers to a segment of the segmentation object. A report without masks
says why there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.valuerep import VR

from service.imaging.derived_uids import derive_uid
from service.imaging.dicom_header import SourceHeader
from service.imaging.dicom_object import (
    INSTANCE,
    MANUFACTURER,
    SERIES,
    SOURCE_CLASS,
    SOURCE_INSTANCE,
    SegmentationMethod,
    finish,
    item,
    put,
    template_of,
)
from service.imaging.dicom_options import DEFAULT_OPTIONS, ObjectOptions
from service.imaging.structures import LUNGS, STRUCTURES

Code = tuple[str, str, str]
_SERIES_NUMBER = 302  # behind segmentations and secondary captures
_SCHEME = "99LUNGSEG"
_LONGEST_MEANING = 64

QUANTITIES: Mapping[str, Code] = MappingProxyType(
    {
        "area": ("42798000", "SCT", "Area"),
        "height": ("121207", "DCM", "Height"),
        "width": ("103355008", "SCT", "Width"),
        "area_fraction": ("area_fraction", _SCHEME, "Area as a fraction of the image"),
        "area_ratio": ("area_ratio", _SCHEME, "Area as a ratio to the other lung's"),
        "asymmetry": ("asymmetry", _SCHEME, "Asymmetry of the lungs' areas"),
        "cardiothoracic_ratio": ("cardiothoracic_ratio", _SCHEME, "Cardiothoracic ratio"),
        "confidence": ("confidence", _SCHEME, "Confidence of the mask"),
        "grey_mean": ("grey_mean", _SCHEME, "Mean of the stored grey values"),
        "grey_sd": ("grey_sd", _SCHEME, "Standard deviation of the stored grey values"),
        "grey_p5": ("grey_p5", _SCHEME, "5th percentile of the stored grey values"),
        "grey_p50": ("grey_p50", _SCHEME, "Median of the stored grey values"),
        "grey_p95": ("grey_p95", _SCHEME, "95th percentile of the stored grey values"),
    }
)
"""Names to codes; our own scheme where neither SNOMED CT nor DICOM has one."""

UNITS: Mapping[str, Code] = MappingProxyType(
    {
        "px": ("{pixels}", "UCUM", "pixels"),
        "mm": ("mm", "UCUM", "mm"),
        "mm2": ("mm2", "UCUM", "square millimeter"),
        "1": ("1", "UCUM", "no units"),
    }
)
"""Names to codes of UCUM. An area in pixels has the unit `px`, as in the API."""


@dataclass(frozen=True)
class Measure:
    """One measured value.

    Attributes:
        quantity: a name of `QUANTITIES`.
        value: the finite value.
        unit: a name of `UNITS`.
    """

    quantity: str
    value: float
    unit: str


@dataclass(frozen=True)
class MeasuredSegment:
    """The measurements of one segment.

    Attributes:
        number: its number in the segmentation object, from 1.
        structure: a name of `structures.STRUCTURES`.
    """

    number: int
    measures: Sequence[Measure]
    structure: str = LUNGS


@dataclass(frozen=True)
class ObjectReference:
    """An object that another refers to."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True)
class Remark:
    """A warning about the answer."""

    code: str
    severity: str = ""  # as in the API


def reference_to(data: bytes) -> ObjectReference:
    """Return a reference to an object.

    Args:
        data: its file, for example from `encode_dicom_segmentation`.
    """
    keywords = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"]
    dataset = pydicom.dcmread(BytesIO(data), stop_before_pixels=True, specific_tags=keywords)
    return ObjectReference(*(str(dataset[keyword].value) for keyword in keywords))


def encode_measurement_report(
    header: SourceHeader,
    segments: Sequence[MeasuredSegment],
    method: SegmentationMethod,
    *,
    segmentation: ObjectReference | None = None,
    image_measures: Sequence[Measure] = (),
    remarks: Sequence[Remark] = (),
    options: ObjectOptions = DEFAULT_OPTIONS,
) -> bytes:
    """Return a Comprehensive SR file.

    Args:
        header: the X-ray.
        segments: measurements of each segment; none if no mask is sent.
        method: model, convention and threshold of the masks.
        segmentation: segmentation object with the segments.
        image_measures: measures of several structures, such as the cardiothoracic ratio.
        remarks: warnings about the answer.
        options: settings of the deployment.

    Returns:
        The file, complete and unverified. Equal arguments give equal bytes.

    Raises:
        ValueError: segments are measured without their segmentation object.
    """
    import highdicom

    if segments and segmentation is None:
        raise ValueError("measured segments need the segmentation that they lie in")
    source = template_of(header)
    key = options.uid_key
    groups = [
        _segment_group(header, segment, segmentation, method, key)
        for segment in segments
        if segmentation is not None
    ]
    report = highdicom.sr.MeasurementReport(
        observation_context=_observer(method, options),
        procedure_reported=_concept(("363680008", "SCT", "Radiographic imaging")),
        imaging_measurements=[*groups, _image_group(header, image_measures, remarks, method, key)],
        title=_concept(("126000", "DCM", "Imaging Measurement Report")),
    )
    dataset = highdicom.sr.ComprehensiveSR(
        evidence=[source, *([] if segmentation is None else [_evidence(source, segmentation)])],
        content=report[0],
        series_instance_uid=SERIES,
        series_number=_SERIES_NUMBER,
        sop_instance_uid=INSTANCE,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        manufacturer_model_name=method.model.name,
        software_versions=method.model.version,
        device_serial_number=method.model.sha256[:16],
        series_description="Lung measurements",
        specific_character_set="ISO_IR 192",
    )
    _refer_to_segments_alone(dataset)
    put(dataset, "CodingSchemeIdentificationSequence", [_our_scheme()])
    return finish(dataset, header, method, key, "SR")


def _refer_to_segments_alone(dataset: Dataset) -> None:
    """Remove the frame from each reference to a segment: PS3.3 10.3 allows only one of the two."""
    if "ReferencedSegmentNumber" in dataset and "ReferencedFrameNumber" in dataset:
        del dataset.ReferencedFrameNumber
    for element in dataset:
        if element.VR == VR.SQ:
            for inner in element.value:
                _refer_to_segments_alone(inner)


def _our_scheme() -> Dataset:
    return item(
        CodingSchemeDesignator=_SCHEME,
        CodingSchemeName="Codes of the lung segmentation service",
        CodingSchemeResponsibleOrganization=MANUFACTURER,
    )


def _segment_group(
    header: SourceHeader,
    segment: MeasuredSegment,
    segmentation: ObjectReference,
    method: SegmentationMethod,
    uid_key: str,
) -> Any:
    import highdicom

    structure = STRUCTURES[segment.structure]
    source = highdicom.sr.SourceImageForSegmentation(SOURCE_CLASS, SOURCE_INSTANCE)
    frame = highdicom.sr.ReferencedSegmentationFrame(
        segmentation.sop_class_uid,
        segmentation.sop_instance_uid,
        frame_number=[segment.number],
        segment_number=segment.number,
        source_image=source,
    )
    sides = {} if structure.laterality is None else {"laterality": _concept(structure.laterality)}
    return highdicom.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(header, f"{structure.label} {segment.number}", uid_key),
        referenced_segment=frame,
        finding_type=_concept(structure.code),
        finding_sites=[highdicom.sr.FindingSite(_concept(structure.code), **sides)],
        algorithm_id=_algorithm(method),
        measurements=_measurements(segment.measures),
    )


def _image_group(
    header: SourceHeader,
    measures: Sequence[Measure],
    remarks: Sequence[Remark],
    method: SegmentationMethod,
    uid_key: str,
) -> Any:
    import highdicom

    return highdicom.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(header, "Image", uid_key),
        finding_type=_concept(STRUCTURES[LUNGS].code),
        algorithm_id=_algorithm(method),
        measurements=_measurements(measures),
        qualitative_evaluations=[_evaluation(remark) for remark in remarks],
        source_images=[highdicom.sr.SourceImageForMeasurementGroup(SOURCE_CLASS, SOURCE_INSTANCE)],
    )


def _evaluation(remark: Remark) -> Any:
    import highdicom

    words = remark.code.replace("_", " ")
    meaning = f"{words} ({remark.severity})" if remark.severity else words
    return highdicom.sr.QualitativeEvaluation(
        _concept(("warning", _SCHEME, "Warning about this result")),
        _concept((remark.code, _SCHEME, meaning[:_LONGEST_MEANING])),
    )


def _measurements(measures: Sequence[Measure]) -> list[Any]:
    import highdicom

    return [
        highdicom.sr.Measurement(
            name=_concept(QUANTITIES[one.quantity]),
            value=float(one.value),
            unit=_concept(UNITS[one.unit]),
        )
        for one in measures
    ]


def _observer(method: SegmentationMethod, options: ObjectOptions) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    model = method.model
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=options.device_uid or derive_uid(options.uid_key, "device", model.sha256),
        manufacturer_name=MANUFACTURER,
        model_name=model.name,
        serial_number=model.sha256[:16],
    )
    return highdicom.sr.ObservationContext(
        observer_device_context=highdicom.sr.ObserverContext(codes.DCM.Device, device)
    )


def _algorithm(method: SegmentationMethod) -> Any:
    import highdicom

    parameters = [f"{name}={value}" for name, value in method.parameters().items()]
    return highdicom.sr.AlgorithmIdentification(
        method.model.name, method.model.version, parameters, manufacturer=MANUFACTURER
    )


def _tracking(header: SourceHeader, name: str, uid_key: str) -> Any:
    import highdicom

    return highdicom.sr.TrackingIdentifier(
        uid=derive_uid(uid_key, "measured", header.sop_instance_uid, name), identifier=name
    )


def _evidence(source: Dataset, segmentation: ObjectReference) -> Dataset:
    evidence = Dataset()
    evidence.update(source)
    put(evidence, "SOPClassUID", segmentation.sop_class_uid)
    put(evidence, "SOPInstanceUID", segmentation.sop_instance_uid)
    put(evidence, "SeriesInstanceUID", segmentation.series_instance_uid)
    return evidence


def _concept(code: Code) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(*code)
