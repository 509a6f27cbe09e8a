"""The DICOM objects of one answer, and their envelope.

They refer to each other, so they are made together; the segmentation is made once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.pictures.dicom_display import GreyDisplay
from service.imaging.answered_masks import AnsweredMask
from service.imaging.dicom_header import SourceHeader
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.dicom_options import ObjectOptions
from service.imaging.dicom_plane import PixelSpacing
from service.imaging.dicom_presentation import encode_presentation_state
from service.imaging.dicom_report import (
    Measure,
    MeasuredSegment,
    Remark,
    encode_measurement_report,
    reference_to,
)
from service.imaging.dicom_secondary_capture import (
    NOT_A_DIAGNOSIS,
    encode_secondary_capture,
    identity_of,
)
from service.imaging.dicom_segmentation import Segment, encode_dicom_segmentation, shown_structures
from service.imaging.measurements import measure_structure
from service.imaging.segment_request import DicomObject, View
from service.imaging.structures import LEFT_LUNG, RIGHT_LUNG
from service.imaging.views import NOT_FOR_MEASURING, Picture, ViewedMasks, view_of
from service.imaging.warning_advice import gravest_of_masks

_DESCRIPTIONS = {
    View.OVERLAY: "{one} overlay",
    View.OUTLINE: "{one} outline",
    View.ISOLATED: "{all} alone",
    View.ENHANCED: "{all} with enhanced contrast",
}
_WORDS = {
    ("lungs",): ("Lung", "Lungs"),
    ("heart",): ("Heart", "Heart"),
    ("lungs", "heart"): ("Lung and heart", "Lungs and heart"),
}


@dataclass
class DicomResults:
    """The results on one X-ray, from which DICOM objects are made.

    Attributes:
        header: the X-ray's header.
        pixels: (H, W) uint8 or uint16, the X-ray.
        masks: masks of the answer.
        remarks: warnings of the answer.
        options: settings of the deployment.
        view: content of the secondary capture.
        cardiothoracic_ratio: for the report; None for none.
        display: how to display the X-ray's grey values, for a presentation state.
    """

    header: SourceHeader
    pixels: NDArray[Any]
    masks: Sequence[AnsweredMask]
    method: SegmentationMethod
    remarks: Sequence[Remark]
    options: ObjectOptions
    view: View = View.OVERLAY
    cardiothoracic_ratio: float | None = None
    display: GreyDisplay | None = None

    def encode(self, kind: DicomObject) -> bytes:
        """Return one object as a file."""
        encode = {
            DicomObject.SEGMENTATION: self.segmentation,
            DicomObject.SECONDARY_CAPTURE: self._capture,
            DicomObject.REPORT: self._report,
            DicomObject.PRESENTATION_STATE: self._presentation_state,
        }
        return encode[kind]()

    def segmentation(self) -> bytes:
        """Return the segmentation as a file."""
        return self._segmentation

    @cached_property
    def _segmentation(self) -> bytes:
        return encode_dicom_segmentation(self.header, self._segments(), self.method, self.options)

    def _segments(self) -> list[Segment]:
        return [Segment(one.mask, one.structure) for one in self.masks]

    def _capture(self) -> bytes:
        lines = self._lines()
        if self.view is View.ENHANCED:
            lines.append(NOT_FOR_MEASURING)
        one, both = self._words()
        return encode_secondary_capture(
            self.header,
            self._picture(),
            self.method,
            remarks=lines,
            description=_DESCRIPTIONS[self.view].format(one=one, all=both),
            options=self.options,
        )

    def _presentation_state(self) -> bytes:
        if self.display is None:
            raise ValueError("a presentation state needs to know how the X-ray is shown")
        description = _DESCRIPTIONS[View.OUTLINE].format(one=self._words()[0])
        return encode_presentation_state(
            self.header,
            self.display,
            self.pixels,
            self._segments(),
            self.method,
            lines=[NOT_A_DIAGNOSIS, *identity_of(self.method), *self._lines()],
            description=description,
            options=self.options,
        )

    def _words(self) -> tuple[str, str]:
        """Return the names of the structures, for use in a title and alone."""
        return _WORDS[shown_structures(mask.structure for mask in self.masks)]

    def _lines(self) -> list[str]:
        """Return confidences and warnings."""
        confidences = ", ".join(f"{one.confidence:.2f}" for one in self.masks)
        lines = [f"confidence {confidences}"]
        for severity in ("refuse", "look", "info"):
            codes = [one.code for one in self.remarks if one.severity == severity]
            if codes:
                lines.append(f"{severity}: " + ", ".join(codes))
        return lines

    def _picture(self) -> Picture:
        """Return the view: RGB, (H, W, 3), or grey, (H, W), with the X-ray's bits if isolated."""
        severity = gravest_of_masks(one.code for one in self.remarks)
        shown = ViewedMasks(self.pixels, [one.mask for one in self.masks], severity=severity)
        return view_of(self.view, shown)

    def _report(self) -> bytes:
        spacing = self.header.spacing
        segments = [
            MeasuredSegment(number, _measures(one, self.pixels, spacing), one.structure)
            for number, one in enumerate(self.masks, start=1)
        ]
        return encode_measurement_report(
            self.header,
            segments,
            self.method,
            segmentation=reference_to(self._segmentation),
            image_measures=self._image_measures(),
            remarks=self.remarks,
            options=self.options,
        )

    def _image_measures(self) -> list[Measure]:
        """Return the cardiothoracic ratio, and the ratio of the areas of right and left lung."""
        measures = []
        if self.cardiothoracic_ratio is not None:
            measures.append(Measure("cardiothoracic_ratio", self.cardiothoracic_ratio, "1"))
        lungs = [one for one in self.masks if one.structure in (RIGHT_LUNG, LEFT_LUNG)]
        areas = {one.structure: int(np.count_nonzero(one.mask)) for one in lungs}
        right, left = areas.get(RIGHT_LUNG, 0), areas.get(LEFT_LUNG, 0)
        if len(lungs) != 2 or not right or not left:
            return measures
        return [
            *measures,
            Measure("area_ratio", round(right / left, 4), "1"),
            Measure("asymmetry", round((right - left) / (right + left), 4), "1"),
        ]


def multipart(files: Sequence[bytes]) -> tuple[bytes, str]:
    """Return DICOM files as one body, as DICOMweb sends them (PS3.18 8.6.1.2).

    Args:
        files: the files, in order.

    Returns:
        The body and its media type, which names the boundary: a digest of the files, so that
        equal answers are equal bytes and the boundary is in none of them.
    """
    boundary = hashlib.sha256(b"".join(files)).hexdigest()[:32]
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    parts = b"".join(head + file + b"\r\n" for file in files)
    media_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return parts + f"--{boundary}--\r\n".encode(), media_type


def _measures(
    found: AnsweredMask, pixels: NDArray[Any], spacing: PixelSpacing | None
) -> list[Measure]:
    """Return the measures of a mask, in mm if the size of a pixel is known."""
    measured = measure_structure(found.mask, pixels, spacing)
    named = [
        ("confidence", found.confidence, "1"),
        ("area", measured.area_px, "px"),
        ("area", measured.area_mm2, "mm2"),
        ("height", measured.height_mm, "mm"),
        ("width", measured.width_mm, "mm"),
        ("grey_mean", measured.grey_mean, "1"),
        ("grey_sd", measured.grey_sd, "1"),
        ("grey_p5", measured.grey_p5, "1"),
        ("grey_p50", measured.grey_p50, "1"),
        ("grey_p95", measured.grey_p95, "1"),
    ]
    if measured.area_px == 0:
        del named[2:]
    return [Measure(name, value, unit) for name, value, unit in named if value is not None]
