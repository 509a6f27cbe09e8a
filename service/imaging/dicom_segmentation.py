"""Masks as a DICOM Segmentation object, for archives and viewers.

One binary segment per mask, coded as lung anatomy, made by a named algorithm with its version and
digest, and referring to the X-ray it was drawn on, so that a viewer lays it over the right image
of the right patient.

highdicom writes the object. It takes 0.3 s to import after pydicom (0.5 s alone), and few
deployments ask for this form of answer, so it is imported on first use.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from model_store.conventions import Convention
from service.errors import InvalidField

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

_MANUFACTURER = "adalora-qat"
_SERIES_NUMBER = 300  # high, to sort behind the X-rays of the study
_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# Type 2 attributes of the patient and study modules: they must be there and may be empty.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)


class NamedModel(Protocol):
    """What the object says about the model; `model_store.predictor.ModelInfo` fits."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Version of the model."""

    @property
    def sha256(self) -> str:
        """Digest of its weights."""


def encode_dicom_segmentation(
    source: Dataset,
    masks: Sequence[NDArray[np.bool_]],
    info: NamedModel,
    *,
    convention: Convention | None = None,
    is_prompted: bool = False,
) -> bytes:
    """Returns a DICOM Segmentation file, explicit VR little endian.

    Args:
        source: header of the X-ray (`Picture.dicom`); its pixels are not needed.
        masks: (H, W) bool each, H and W as in `source`; empty masks are kept as empty segments.
        info: the model.
        convention: the lung convention drawn by, written into the segments' labels.
        is_prompted: whether a box was given, which makes the algorithm semi-automatic.

    Raises:
        InvalidField: the X-ray has no study, series and instance identifiers to refer to.
        ValueError: no mask, or one of another shape than the X-ray.
    """
    import highdicom  # slow, see the module's docstring

    logging.getLogger("highdicom").setLevel(logging.ERROR)  # it reports empty frames
    header = _referable(source)
    shape = (int(header.Rows), int(header.Columns))
    if not masks or any(mask.shape != shape for mask in masks):
        raise ValueError("masks must be one or more, each with the shape of the X-ray")
    stack = np.stack([mask.astype(np.uint8) for mask in masks], axis=-1)  # (H, W, segments)
    segmentation = highdicom.seg.Segmentation(
        source_images=[header],
        pixel_array=stack[np.newaxis],  # (1, H, W, segments)
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(len(masks), info, convention, is_prompted),
        series_instance_uid=generate_uid(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=_MANUFACTURER,
        manufacturer_model_name=info.name,
        software_versions=info.version,
        device_serial_number=info.sha256[:16],
        content_label="LUNGS",
        content_description="Lung segmentation",
        series_description="Lung segmentation",
        omit_empty_frames=False,
    )
    # Type 2C in the general image module when an X-ray has no frame of reference; highdicom leaves
    # it out, and dciodvfy reports that as an error.
    segmentation.PatientOrientation = header.get("PatientOrientation")
    buffer = io.BytesIO()
    segmentation.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _referable(source: Dataset) -> Dataset:
    """Returns a copy with every attribute that highdicom repeats from the X-ray."""
    if not all(source.get(keyword) for keyword in _IDENTIFIERS):
        raise InvalidField(
            "The DICOM image has no study, series and instance identifiers, so a segmentation "
            "cannot refer to it; ask for JSON or PNG instead."
        )
    header = copy.deepcopy(source)  # attributes are added; a shallow copy would share them
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)
    return header


def _descriptions(
    count: int, info: NamedModel, convention: Convention | None, is_prompted: bool
) -> list[SegmentDescription]:
    import highdicom
    from pydicom.sr.codedict import codes

    kinds = highdicom.seg.SegmentAlgorithmTypeValues
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=info.name,
        version=info.version,
        family=codes.cid7162.ArtificialIntelligence,
        source=_MANUFACTURER,
        parameters={"weights_sha256": info.sha256},
    )
    suffix = f" ({convention})" if convention else ""
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=(f"Lung {number}" if count > 1 else "Lung") + suffix,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Lung,
            algorithm_type=kinds.SEMIAUTOMATIC if is_prompted else kinds.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(),
            tracking_id=f"lung-{number}",
        )
        for number in range(1, count + 1)
    ]
