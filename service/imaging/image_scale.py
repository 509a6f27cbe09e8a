"""What a DICOM header says about measuring its image: size of a pixel, the patient's sides.

The sides of a picture without such a header are those of the usual display, the patient's right
at the picture's left. A mirrored picture without such a header cannot be recognized.
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
        spacing: size of a pixel; None where the header has none.
        towards_left: how columns and rows change towards the patient's left, each -1, 0 or 1.
        projection: AP or PA; None where that is not known.
    """

    spacing: PixelSpacing | None = None
    towards_left: tuple[int, int] = (1, 0)
    projection: Projection | None = None


USUAL_DISPLAY = ImageScale()


def read_scale(header: Dataset | None) -> ImageScale:
    """Return what a header says, and the usual display where it says nothing.

    Args:
        header: the image's header; None for a picture that is no DICOM.
    """
    if header is None:
        return USUAL_DISPLAY
    values = HeaderValues(header)
    directions = values.several("PatientOrientation", "CS")
    return ImageScale(read_spacing(values), _towards_left(directions), frontal_projection(header))


def _towards_left(directions: tuple[str, ...]) -> tuple[int, int]:
    """Return the way to the patient's left from the directions of rows and of columns."""
    if len(directions) != 2:
        return USUAL_DISPLAY.towards_left
    rows, columns = (one[:1] for one in directions)
    if rows in ("L", "R"):
        return (1 if rows == "L" else -1, 0)
    if columns in ("L", "R"):
        return (0, 1 if columns == "L" else -1)
    return USUAL_DISPLAY.towards_left
