"""How stored pixels are turned relative to the upright picture, and the conversion both ways.

A picture can be turned by quarters and mirrored: eight ways in all. Each is an optional
transposition, then an optional mirroring of columns, then of rows. The serving process, which loads
no NumPy, turns boxes with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from model_store.boxes import Box

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Value = TypeVar("_Value", bound="np.generic")


@dataclass(frozen=True)
class Orientation:
    """How to turn stored pixels into the upright picture.

    Attributes:
        is_transposed: rows and columns are exchanged, first of all.
        mirrors_columns: left and right are exchanged, after that.
        mirrors_rows: top and bottom are exchanged, after that.
    """

    is_transposed: bool = False
    mirrors_columns: bool = False
    mirrors_rows: bool = False

    @property
    def is_upright(self) -> bool:
        """Whether the stored pixels are already upright."""
        return self == UPRIGHT

    @property
    def inverse(self) -> Orientation:
        """The opposite turn."""
        if not self.is_transposed:
            return self
        return Orientation(True, self.mirrors_rows, self.mirrors_columns)

    def apply(self, stored: NDArray[_Value]) -> NDArray[_Value]:
        """Turn stored pixels upright.

        Args:
            stored: (H, W) or (H, W, C).

        Returns:
            A contiguous array, (H, W) or (W, H); the same array if it is already upright.
        """
        import numpy as np

        turned = stored.swapaxes(0, 1) if self.is_transposed else stored
        columns, rows = _step(self.mirrors_columns), _step(self.mirrors_rows)
        return np.ascontiguousarray(turned[::rows, ::columns])

    def invert(self, upright: NDArray[_Value]) -> NDArray[_Value]:
        """Turn an upright picture or mask back to the stored orientation; undoes `apply`."""
        return self.inverse.apply(upright)

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) of the upright picture from those of the stored pixels."""
        return (height, width) if self.is_transposed else (width, height)

    def apply_to_box(self, box: Box, width: int, height: int) -> Box:
        """Turn a box upright.

        Args:
            box: x0, y0, x1, y1 in stored pixels.
            width: width of the stored pixels.
            height: height of the stored pixels.
        """
        x0, y0, x1, y1 = box
        if self.is_transposed:
            x0, y0, x1, y1 = y0, x0, y1, x1
        upright_width, upright_height = self.size_of(width, height)
        if self.mirrors_columns:
            x0, x1 = upright_width - x1, upright_width - x0
        if self.mirrors_rows:
            y0, y1 = upright_height - y1, upright_height - y0
        return x0, y0, x1, y1

    def invert_box(self, box: Box, width: int, height: int) -> Box:
        """Turn a box in the upright picture to the stored pixels; undoes `apply_to_box`.

        Args:
            box: x0, y0, x1, y1 in the upright picture.
            width: width of the stored pixels.
            height: height of the stored pixels.
        """
        return self.inverse.apply_to_box(box, *self.size_of(width, height))


UPRIGHT = Orientation()

_EXIF = {
    2: Orientation(False, True, False),
    3: Orientation(False, True, True),
    4: Orientation(False, False, True),
    5: Orientation(True, False, False),
    6: Orientation(True, True, False),
    7: Orientation(True, True, True),
    8: Orientation(True, False, True),
}


def orientation_of_exif(value: object) -> Orientation:
    """Return the orientation of an EXIF tag (0x0112); upright for an unknown value."""
    return _EXIF.get(value, UPRIGHT) if isinstance(value, int) else UPRIGHT


def orientation_of_patient(rows: str, columns: str) -> Orientation | None:
    """Return how to turn to the usual frontal view: the patient's left at the right, feet below.

    Args:
        rows: direction of rows, as in DICOM PatientOrientation: "L", "R", "H" or "F".
        columns: direction of columns, downwards.

    Returns:
        None if the two directions do not span a frontal picture.
    """
    is_transposed = rows in ("H", "F") and columns in ("L", "R")
    if is_transposed:
        rows, columns = columns, rows
    if rows not in ("L", "R") or columns not in ("H", "F"):
        return None
    return Orientation(is_transposed, rows == "R", columns == "H")


def _step(is_mirrored: bool) -> int:
    return -1 if is_mirrored else 1
