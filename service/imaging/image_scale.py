"""Size of a pixel and the patient's sides, from a DICOM header.

Without such a header the sides are those of the usual display, the patient's right at the picture's
left. A mirrored picture without such a header cannot be recognized.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from model_store.pictures.dicom_view import Projection, frontal_projection
from service.imaging.dicom_plane import PixelSpacing, read_spacing
from service.imaging.dicom_values import HeaderValues


@dataclass(frozen=True)
class ImageScale:
    """How pixels of an image relate to the patient.

    Attributes:
        spacing: size of a pixel; None if the header has none.
        towards_left: how columns and rows change towards the patient's left, each -1, 0 or 1.
        projection: AP or PA; None if unknown.
    """

    spacing: PixelSpacing | None = None
    towards_left: tuple[int, int] = (1, 0)
    projection: Projection | None = None


USUAL_DISPLAY = ImageScale()


def read_scale(header: Dataset | None) -> ImageScale:
    """Return the scale in a header, with the usual display for what it lacks.

    Args:
        header: the image's header; None for a picture that is not DICOM.
    """
    if header is None:
        return USUAL_DISPLAY
    values = HeaderValues(header)
    directions = values.several("PatientOrientation", "CS")
    return ImageScale(read_spacing(values), _towards_left(directions), frontal_projection(header))


def _towards_left(directions: tuple[str, ...]) -> tuple[int, int]:
    """Return the direction of the patient's left from the directions of rows and columns."""
    if len(directions) != 2:
        return USUAL_DISPLAY.towards_left
    rows, columns = (one[:1] for one in directions)
    if rows in ("L", "R"):
        return (1 if rows == "L" else -1, 0)
    if columns in ("L", "R"):
        return (0, 1 if columns == "L" else -1)
    return USUAL_DISPLAY.towards_left
