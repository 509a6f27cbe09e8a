"""The DICOM objects of one answer: segmentation, secondary capture and report, and their envelope.

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

from model_store.prediction import MaskPrediction
from service.imaging.dicom_header import SourceHeader
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.dicom_options import ObjectOptions
from service.imaging.dicom_plane import PixelSpacing
from service.imaging.dicom_report import (
    Measure,
    MeasuredSegment,
    Remark,
    encode_measurement_report,
    reference_to,
)
from service.imaging.dicom_secondary_capture import encode_secondary_capture
from service.imaging.dicom_segmentation import Segment, encode_dicom_segmentation
from service.imaging.rendering import draw_overlay
from service.imaging.segment_request import DicomObject


@dataclass
class DicomResults:
    """What was found on one X-ray, ready to become DICOM objects.

    Attributes:
        header: the X-ray's header.
        pixels: (H, W) uint8 or uint16, the X-ray.
        masks: what was found.
        method: how.
        warning_codes: what looks wrong about it.
        options: what the deployment chose.
    """

    header: SourceHeader
    pixels: NDArray[Any]
    masks: Sequence[MaskPrediction]
    method: SegmentationMethod
    warning_codes: Sequence[str]
    options: ObjectOptions

    def encode(self, kind: DicomObject) -> bytes:
        """Return one object as a file."""
        if kind is DicomObject.SEGMENTATION:
            return self.segmentation()
        return self._capture() if kind is DicomObject.SECONDARY_CAPTURE else self._report()

    def segmentation(self) -> bytes:
        """Return the segmentation as a file."""
        return self._segmentation

    @cached_property
    def _segmentation(self) -> bytes:
        segments = [Segment(one.mask) for one in self.masks]
        return encode_dicom_segmentation(self.header, segments, self.method, self.options)

    def _capture(self) -> bytes:
        confidences = ", ".join(f"{one.confidence:.2f}" for one in self.masks)
        lines = [f"confidence {confidences}"]
        if self.warning_codes:
            lines.append("look: " + ", ".join(self.warning_codes))
        return encode_secondary_capture(
            self.header,
            draw_overlay(self.pixels, [one.mask for one in self.masks]),
            self.method,
            remarks=lines,
            description="Lung overlay",
            options=self.options,
        )

    def _report(self) -> bytes:
        spacing = self.header.spacing
        segments = [
            MeasuredSegment(number, _measures(one, spacing))
            for number, one in enumerate(self.masks, start=1)
        ]
        return encode_measurement_report(
            self.header,
            segments,
            self.method,
            segmentation=reference_to(self._segmentation),
            remarks=[Remark(code) for code in self.warning_codes],
            options=self.options,
        )


def multipart(files: Sequence[bytes]) -> tuple[bytes, str]:
    """Return DICOM files as one body, as DICOMweb sends them (PS3.18 8.6.1.2).

    Args:
        files: the files, in their order.

    Returns:
        The body and its media type, which names the boundary: a digest of the files, so that
        equal answers are equal bytes and the boundary is in none of them.
    """
    boundary = hashlib.sha256(b"".join(files)).hexdigest()[:32]
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    parts = b"".join(head + file + b"\r\n" for file in files)
    media_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return parts + f"--{boundary}--\r\n".encode(), media_type


def _measures(found: MaskPrediction, spacing: PixelSpacing | None) -> list[Measure]:
    """Return area, height and width of a mask, in mm where the pixels' size is known."""
    area_px = int(np.count_nonzero(found.mask))
    measures = [Measure("confidence", found.confidence, "1"), Measure("area", area_px, "px")]
    if spacing is None or area_px == 0:
        return measures
    rows, columns = (np.flatnonzero(found.mask.any(axis=axis)) for axis in (1, 0))
    return [
        *measures,
        Measure("area", area_px * spacing.row_mm * spacing.column_mm, "mm2"),
        Measure("height", int(rows[-1] - rows[0] + 1) * spacing.row_mm, "mm"),
        Measure("width", int(columns[-1] - columns[0] + 1) * spacing.column_mm, "mm"),
    ]
