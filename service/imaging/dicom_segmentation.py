"""Masks as a DICOM Segmentation object, for archives and viewers.

It has one binary segment per mask, coded as lung anatomy, and names the algorithm with version,
threshold and digest. It refers to the X-ray, so that a viewer shows it over the right image of the
right patient.

highdicom writes the object. Its import takes 0.3 s after pydicom (0.5 s alone), and few deployments
use this form of answer, so it is imported on first use.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.imaging.derived_uids import derive_uid
from service.imaging.dicom_header import SourceHeader
from service.imaging.dicom_object import (
    INSTANCE,
    MANUFACTURER,
    SERIES,
    SegmentationMethod,
    finish,
    item,
    put,
    template_of,
)
from service.imaging.dicom_options import DEFAULT_OPTIONS, ObjectOptions, PlaneChoice
from service.imaging.dicom_plane import ImagePlane, PixelSpacing, detector_plane
from service.imaging.structures import HEART, LUNGS, STRUCTURES, Structure

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

_SERIES_NUMBER = 300  # high, to sort behind the X-rays of the study
_PLANE_REMARK = "detector plane, not patient coordinates"
_SPACING_REMARKS = {
    "calibrated": "as the X-ray's header calibrates it",
    "detector": "on the detector, where the patient is magnified",
    "scanned": "on the scanned sheet",
}


@dataclass(frozen=True)
class Segment:
    """One mask and what it shows.

    Attributes:
        mask: (H, W) bool, H and W as in the X-ray; an empty mask stays an empty segment.
        structure: a name of `structures.STRUCTURES`.
    """

    mask: NDArray[np.bool_]
    structure: str = LUNGS


def encode_dicom_segmentation(
    header: SourceHeader,
    segments: Sequence[Segment],
    method: SegmentationMethod,
    options: ObjectOptions = DEFAULT_OPTIONS,
) -> bytes:
    """Return a DICOM Segmentation file, explicit VR little endian.

    Args:
        header: the X-ray.
        segments: one or more masks in the order of the object's segments.
        method: model, convention and threshold of the masks.
        options: settings of the deployment.

    Returns:
        The file. Equal arguments give equal bytes, UIDs included; any other mask has another UID.

    Raises:
        ValueError: no mask, or one of another shape than the X-ray.
    """
    import highdicom  # slow, see the module's docstring

    logging.getLogger("highdicom").setLevel(logging.ERROR)  # highdicom reports empty frames
    shape = (header.rows, header.columns)
    if not segments or any(segment.mask.shape != shape for segment in segments):
        raise ValueError("masks must be one or more, each with the shape of the X-ray")
    shown = shown_structures(segment.structure for segment in segments)
    model = method.model
    dataset = highdicom.seg.Segmentation(
        source_images=[template_of(header)],
        pixel_array=_labels_or_stack([segment.mask for segment in segments])[np.newaxis],
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(header, segments, method, options.uid_key),
        series_instance_uid=SERIES,
        series_number=_SERIES_NUMBER,
        sop_instance_uid=INSTANCE,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.sha256[:16],
        content_label="_".join(shown).upper(),
        series_description=f"{_title_of(shown)} segmentation",
        omit_empty_frames=False,
        specific_character_set="ISO_IR 192",
    )
    _put_image_attributes(dataset, header)
    _put_plane(dataset, header, options, _title_of(shown))
    dimensions = dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID
    own = derive_uid(options.uid_key, "dimensions", header.sop_instance_uid)
    return finish(dataset, header, method, options.uid_key, "SEG", {str(dimensions): own})


def _labels_or_stack(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Return the number of each pixel's segment, (H, W), or overlapping masks, (H, W, segments).

    Both give the same object, but highdicom is faster with the first.
    """
    labels = np.zeros(masks[0].shape, np.uint8)
    if len(masks) <= np.iinfo(labels.dtype).max:
        for number, mask in enumerate(masks, 1):
            labels[mask] = number
        if np.count_nonzero(labels) == sum(np.count_nonzero(mask) for mask in masks):
            return labels
    return np.stack(masks, axis=-1).astype(np.uint8)


def shown_structures(structures: Iterable[str]) -> tuple[str, ...]:
    """Return the names of lungs and heart that are among the structures."""
    hearts = {one == HEART for one in structures}
    return ("lungs",) * (False in hearts) + ("heart",) * (True in hearts)


def _title_of(shown: Sequence[str]) -> str:
    return " and ".join({"lungs": "lung"}.get(one, one) for one in shown).capitalize()


def _put_image_attributes(dataset: Dataset, header: SourceHeader) -> None:
    put(dataset, "ContentCreatorName", "")  # type 2; no person made it
    put(dataset, "LossyImageCompression", "01" if header.lossy else "00")
    for keyword, values in header.lossy.items():
        if values:
            put(dataset, keyword, list(values))


def _put_plane(dataset: Dataset, header: SourceHeader, options: ObjectOptions, title: str) -> None:
    """Add frame of reference, plane and the size of a pixel, as far as known or configured."""
    plane = header.plane
    if plane is None and options.plane is PlaneChoice.DETECTOR:
        plane = detector_plane(derive_uid(options.uid_key, "frame", header.sop_instance_uid))
    is_detector = plane is not None and not plane.is_own
    remark = f"; {_PLANE_REMARK}" if is_detector else ""
    put(dataset, "ContentDescription", f"{title} segmentation{remark}")
    if plane is None:
        # Type 2C of the general image module without a frame of reference; highdicom omits it, and
        # dciodvfy reports that as an error.
        put(dataset, "PatientOrientation", list(header.patient_orientation))
    else:
        _put_frame_of_reference(dataset, plane)
    if header.spacing is not None:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        put(shared, "PixelMeasuresSequence", [_pixel_measures(header, header.spacing)])
        remark = _SPACING_REMARKS[header.spacing.plane]
        put(dataset, "DerivationDescription", f"{header.spacing.keyword}: {remark}")


def _put_frame_of_reference(dataset: Dataset, plane: ImagePlane) -> None:
    put(dataset, "FrameOfReferenceUID", plane.frame_of_reference_uid)
    put(dataset, "PositionReferenceIndicator", "")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    put(shared, "PlaneOrientationSequence", [item(ImageOrientationPatient=list(plane.orientation))])
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        put(frame, "PlanePositionSequence", [item(ImagePositionPatient=list(plane.position))])


def _pixel_measures(header: SourceHeader, spacing: PixelSpacing) -> Dataset:
    return item(PixelSpacing=list(spacing.texts), SliceThickness=header.slice_thickness)


def _descriptions(
    header: SourceHeader, segments: Sequence[Segment], method: SegmentationMethod, uid_key: str
) -> list[SegmentDescription]:
    import highdicom
    from pydicom.sr.codedict import codes

    model = method.model
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=model.name,
        version=model.version,
        family=codes.cid7162.ArtificialIntelligence,
        source=MANUFACTURER,
        parameters=method.parameters(),
    )
    kinds = highdicom.seg.SegmentAlgorithmTypeValues
    described = []
    for number, (segment, name) in enumerate(zip(segments, _names(segments), strict=True), 1):
        structure = STRUCTURES[segment.structure]
        convention = "" if segment.structure == HEART else method.convention
        suffix = f" ({convention})" if convention else ""
        tracked = (header.sop_instance_uid, model.sha256, convention or "", name)
        description = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name + suffix,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=highdicom.sr.CodedConcept(*structure.code),
            algorithm_type=kinds.SEMIAUTOMATIC if method.is_prompted else kinds.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=derive_uid(uid_key, "tracking", *tracked),
            tracking_id=name,
            display_color=_display_colour(structure),
        )
        if structure.laterality is not None:
            side = highdicom.sr.CodedConcept(*structure.laterality)
            (kind,) = description.SegmentedPropertyTypeCodeSequence
            put(kind, "SegmentedPropertyTypeModifierCodeSequence", [side])
        described.append(description)
    return described


def _names(segments: Sequence[Segment]) -> list[str]:
    """Return a name for each segment, numbered if a structure occurs several times."""
    totals = Counter(segment.structure for segment in segments)
    met: Counter[str] = Counter()
    names = []
    for segment in segments:
        met[segment.structure] += 1
        name = STRUCTURES[segment.structure].label
        is_single = totals[segment.structure] == 1
        names.append(name if is_single else f"{name} {met[segment.structure]}")
    return names


def _display_colour(structure: Structure) -> Any:
    import highdicom

    return highdicom.color.CIELabColor.from_dicom_value(structure.display_cielab)
