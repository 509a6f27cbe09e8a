"""The plane of a projection X-ray, and the size of its pixels.

A radiograph seldom has a position in the patient, because it is a projection on a detector. Viewers
still need a plane. So an object made from it may state the detector's plane, in a frame of
reference for this image alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from service.imaging.dicom_values import HeaderValues

SpacingPlane = Literal["calibrated", "detector", "scanned"]
_SMALLEST_MM, _LARGEST_MM = 1e-3, 100.0
_UNIT_TOLERANCE = 1e-3
NOMINAL_THICKNESS = "1"
"""Nominal thickness in mm: a projection has none, but dciodvfy and dcmqi need one."""
# In order of preference (PS3.3 10.7 and C.8.7.1).
_SPACINGS: tuple[tuple[str, SpacingPlane], ...] = (
    ("PixelSpacing", "calibrated"),
    ("ImagerPixelSpacing", "detector"),
    ("NominalScannedPixelSpacing", "scanned"),
)


@dataclass(frozen=True)
class PixelSpacing:
    """Size of a pixel.

    Attributes:
        keyword: attribute that it comes from.
        plane: plane in which it holds: `calibrated` in the patient or on the detector, by the
            header; `detector` on the detector, where the patient is magnified; `scanned` on a
            sheet.
        texts: distance between rows and between columns in mm, as the header writes them.
    """

    keyword: str
    plane: SpacingPlane
    texts: tuple[str, str]

    @property
    def row_mm(self) -> float:
        """Distance between the centres of two rows, mm."""
        return float(self.texts[0])

    @property
    def column_mm(self) -> float:
        """Distance between the centres of two columns, mm."""
        return float(self.texts[1])


@dataclass(frozen=True)
class ImagePlane:
    """A plane in a frame of reference (PS3.3 C.7.6.2).

    Attributes:
        position: centre of the first pixel, x, y, z in mm, as decimal strings.
        orientation: directions of a row and of a column, as decimal strings.
        is_own: whether it is the X-ray's own plane, and not the detector's.
    """

    frame_of_reference_uid: str
    position: tuple[str, ...]
    orientation: tuple[str, ...]
    is_own: bool


def read_spacing(values: HeaderValues) -> PixelSpacing | None:
    """Return the pixel's size.

    Args:
        values: attributes of the X-ray's header.

    Returns:
        The first usable of PixelSpacing, ImagerPixelSpacing and NominalScannedPixelSpacing: two
        numbers of 0.001 to 100 mm. None where there is none.
    """
    for keyword, plane in _SPACINGS:
        texts = values.several(keyword, "DS")
        if len(texts) == 2 and all(_SMALLEST_MM <= float(text) <= _LARGEST_MM for text in texts):
            return PixelSpacing(keyword, plane, (texts[0], texts[1]))
    return None


def read_thickness(values: HeaderValues) -> str | None:
    """Return the slice thickness in mm as the header writes it; None if it is not positive."""
    text = values.one("SliceThickness", "DS")
    return text if text is not None and _SMALLEST_MM <= float(text) <= _LARGEST_MM else None


def read_plane(values: HeaderValues) -> ImagePlane | None:
    """Return the X-ray's own plane.

    Args:
        values: attributes of the X-ray's header.

    Returns:
        The plane; None unless frame of reference, position and two perpendicular unit directions
        are all there.
    """
    frame = values.one("FrameOfReferenceUID", "UI")
    position = values.several("ImagePositionPatient", "DS")
    orientation = values.several("ImageOrientationPatient", "DS")
    if frame is None or len(position) != 3 or len(orientation) != 6:
        return None
    numbers = [float(text) for text in orientation]
    row, column = numbers[:3], numbers[3:]
    is_square = (
        abs(math.hypot(*row) - 1) < _UNIT_TOLERANCE
        and abs(math.hypot(*column) - 1) < _UNIT_TOLERANCE
        and abs(sum(a * b for a, b in zip(row, column, strict=True))) < _UNIT_TOLERANCE
    )
    return ImagePlane(frame, position, orientation, is_own=True) if is_square else None


def detector_plane(frame_of_reference_uid: str) -> ImagePlane:
    """Return the plane of a detector whose first pixel is the origin.

    Args:
        frame_of_reference_uid: UID for this image alone.
    """
    return ImagePlane(
        frame_of_reference_uid,
        position=("0", "0", "0"),
        orientation=("1", "0", "0", "0", "1", "0"),
        is_own=False,
    )
