"""Encode every DICOM object once, in the process that image workers are forked from.

Importing highdicom and its table of every object of the standard takes CPU time and memory. This
happens before the first answer in DICOM. Otherwise each worker would repeat it, and a worker is
replaced after each costly answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.ma  # highdicom checks a label map by np.unique, which imports it on first use

from model_store.boxes import Box
from model_store.pictures.dicom_display import GreyDisplay
from service.imaging.answered_masks import AnsweredMask
from service.imaging.dicom_header import SourceHeader
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.dicom_options import DEFAULT_OPTIONS
from service.imaging.dicom_plane import PixelSpacing
from service.imaging.dicom_report import Remark
from service.imaging.dicom_results import DicomResults
from service.imaging.segment_request import DicomObject, View

_SIDE_PX = 64


@dataclass(frozen=True)
class _NoModel:
    name: str = "none"
    version: str = "0"
    sha256: str = "0" * 64


def encode_objects_once() -> None:
    """Encode every DICOM object of a synthetic X-ray, in the calling thread."""
    side = _SIDE_PX
    pixels = np.add.outer(np.arange(side), np.arange(side)).astype(np.uint16)
    box: Box = (0.0, 0.0, float(side), float(side))
    names = (("right_lung", pixels < side), ("left_lung", pixels >= side), ("heart", pixels == 0))
    masks = [AnsweredMask(box, mask, 1.0, 1.0, structure=name) for name, mask in names]
    header = SourceHeader(
        sop_class_uid="2.25.1",
        sop_instance_uid="2.25.2",
        series_instance_uid="2.25.3",
        study_instance_uid="2.25.4",
        rows=side,
        columns=side,
        identity={},
        spacing=PixelSpacing("PixelSpacing", "calibrated", ("0.2", "0.2")),
    )
    results = DicomResults(
        header,
        pixels,
        masks,
        SegmentationMethod(_NoModel(), "lung_field", 0.5),
        [Remark("undecided_mask", "look")],
        DEFAULT_OPTIONS,
        View.OUTLINE,
        0.5,
        GreyDisplay(1.0, 0.0, None, None, (32.0, 64.0), "LINEAR", False, (0, 4095)),
    )
    for kind in DicomObject:
        results.encode(kind)
