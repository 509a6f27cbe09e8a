"""A picture made from an X-ray as a DICOM Secondary Capture, for viewers that show no SEG.

Text burnt into it says that no person made it; BurnedInAnnotation declares that text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.imaging.dicom_header import SourceHeader
from service.imaging.dicom_object import (
    INSTANCE,
    MANUFACTURER,
    SERIES,
    SOURCE_CLASS,
    SOURCE_INSTANCE,
    STUDY,
    SegmentationMethod,
    coded,
    finish,
    item,
    put,
)
from service.imaging.dicom_options import DEFAULT_OPTIONS, ObjectOptions
from service.imaging.rendering import display_window
from service.imaging.views import with_margin

NOT_A_DIAGNOSIS = "AI result, not a diagnosis"
_SERIES_NUMBER = 301  # behind the segmentations
_IMAGE_PROCESSING = ("113076", "DCM", "Segmentation")
_SOURCE_PURPOSE = ("121322", "DCM", "Source image for image processing operation")


def encode_secondary_capture(
    header: SourceHeader,
    picture: NDArray[np.uint8] | NDArray[np.uint16],
    method: SegmentationMethod,
    *,
    remarks: Sequence[str] = (),
    description: str = "Lung outline",
    options: ObjectOptions = DEFAULT_OPTIONS,
) -> bytes:
    """Return a Secondary Capture file, RGB or grey, explicit VR little endian.

    Args:
        header: the X-ray.
        picture: in the X-ray's own frame: (H, W, 3) uint8 RGB, such as its overlay, or (H, W) grey,
            uint8 or uint16, such as the lungs alone; grey values keep all of their bits.
        method: method of the segmentation; model, version and digest are burnt in.
        remarks: further lines to burn in, such as the confidence and the warnings.
        description: name of the series, at most 64 letters.
        options: settings of the deployment.

    Returns:
        The file. Equal arguments give equal bytes.

    Raises:
        ValueError: the picture has another shape than the X-ray.
    """
    import highdicom

    is_grey = picture.ndim == 2
    if picture.shape != (header.rows, header.columns, *(() if is_grey else (3,))):
        raise ValueError("the picture must be RGB or grey, with the shape of the X-ray")
    lines = [f"{NOT_A_DIAGNOSIS} · {description}", _identity_line(method), *remarks]
    dataset = highdicom.sc.SCImage(
        pixel_array=with_margin(picture, lines),
        photometric_interpretation="MONOCHROME2" if is_grey else "RGB",
        bits_allocated=8 * picture.itemsize,
        coordinate_system="PATIENT",
        study_instance_uid=STUDY,
        series_instance_uid=SERIES,
        series_number=_SERIES_NUMBER,
        sop_instance_uid=INSTANCE,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=method.model.name,
        software_versions=method.model.version,
        device_serial_number=method.model.sha256[:16],
        series_description=description,
        patient_orientation=("L", "F"),
        specific_character_set="ISO_IR 192",
    )
    if is_grey:
        low, high = display_window(picture)
        put(dataset, "WindowCenter", [f"{(low + high + 1) / 2:g}"])
        put(dataset, "WindowWidth", [f"{high - low + 1:g}"])
    put(dataset, "PatientOrientation", list(header.patient_orientation))
    put(dataset, "BurnedInAnnotation", "YES")
    put(dataset, "DateOfSecondaryCapture", header.content_date)
    put(dataset, "TimeOfSecondaryCapture", header.content_time)
    put(dataset, "DerivationDescription", f"{NOT_A_DIAGNOSIS}; {_identity_line(method)}")
    put(dataset, "DerivationCodeSequence", [coded(_IMAGE_PROCESSING)])
    source = item(ReferencedSOPClassUID=SOURCE_CLASS, ReferencedSOPInstanceUID=SOURCE_INSTANCE)
    put(source, "PurposeOfReferenceCodeSequence", [coded(_SOURCE_PURPOSE)])
    put(dataset, "SourceImageSequence", [source])
    put(dataset, "LossyImageCompression", "01" if header.lossy else "00")
    for keyword, values in header.lossy.items():
        if values:
            put(dataset, keyword, list(values))
    # A secondary capture has no attribute for a spacing on the detector.
    if header.spacing is not None and header.spacing.plane != "detector":
        put(dataset, header.spacing.keyword, list(header.spacing.texts))
    return finish(dataset, header, method, options.uid_key, "SC")


def _identity_line(method: SegmentationMethod) -> str:
    return " · ".join(identity_of(method))


def identity_of(method: SegmentationMethod) -> list[str]:
    """Return model, weights, convention and threshold, as far as known, as text."""
    model = method.model
    known = [f"{model.name} {model.version}", f"weights {model.sha256[:12]}"]
    if method.convention:
        known.append(method.convention)
    if method.threshold is not None:
        known.append(f"threshold {method.threshold:g}")
    return known
