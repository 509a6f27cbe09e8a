"""How a DICOM header says to display its grey values, for presentation states that repeat it.

Format: DICOM PS3.3, sections C.11.1 (modality), C.11.2 (VOI) and C.11.6 (softcopy presentation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from model_store.pictures.dicom_layout import PixelLayout, read_pixel_layout
from model_store.pictures.dicom_lookup import LookupTable, read_lookup_table

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_MOST_VALUES = 16
_TABLE_RANGE = 65_535


class GreyTables:
    """The lookup tables of a header.

    Attributes:
        modality: from stored values to those of the modality; None for none.
        voi: table of the values of interest that are shown; None for none.
        presentation: table of the displayed order; None for none.
    """

    def __init__(self, header: Dataset, layout: PixelLayout, is_little_endian: bool) -> None:
        """Read the tables.

        Raises:
            ValueError: a table contradicts its description.
        """

        def read(keyword: str, is_signed: bool = False) -> LookupTable | None:
            return read_lookup_table(
                header, keyword, is_signed=is_signed, is_little_endian=is_little_endian
            )

        self.modality: LookupTable | None = None
        if "RescaleSlope" not in header:
            self.modality = read("ModalityLUTSequence", layout.is_signed)
        is_signed = layout.is_signed or header_number(header, "RescaleIntercept", 0.0) < 0
        self.voi = read("VOILUTSequence", is_signed and self.modality is None)
        self.presentation = read("PresentationLUTSequence")


@dataclass(frozen=True)
class ShownTable:
    """A lookup table as plain data, which can pass between processes as JSON.

    Attributes:
        first: the input value that the first entry belongs to.
        entries: output values.
        bits: of an output value, 8 to 16.
    """

    first: int
    entries: tuple[int, ...]
    bits: int


@dataclass(frozen=True)
class GreyDisplay:
    """The transformations that a viewer applies to the stored values of an X-ray, in this order.

    Attributes:
        slope: slope of the linear modality transformation, used without a table.
        intercept: intercept of the same transformation.
        modality: modality table, used instead of slope and intercept; None for none.
        voi: VOI table; None for none.
        window: centre and width of the window, used without a VOI table; None for none.
        function: how the window is applied.
        is_inverse: whether the result is inverted at the end.
        stored_range: lowest and highest value that can be stored.
    """

    slope: float
    intercept: float
    modality: ShownTable | None
    voi: ShownTable | None
    window: tuple[float, float] | None
    function: str
    is_inverse: bool
    stored_range: tuple[int, int]

    def window_of(self, low: int, high: int) -> tuple[float, float]:
        """Return a window (centre, width) for decoded grey values, for headers without one.

        Args:
            low: decoded grey value (brighter is denser, from 0) that is displayed black.
            high: decoded grey value that is displayed white, above `low`.
        """
        lowest, highest = (0, _TABLE_RANGE) if self.modality is not None else self.stored_range
        falls = self.modality is None and self.slope < 0
        if self.is_inverse != falls:  # decoding inverted them
            ends = (highest - low, highest - high)
        else:
            ends = (lowest + low, lowest + high)
        if self.modality is None:
            first, last = sorted(end * self.slope + self.intercept for end in ends)
        else:
            first, last = sorted(map(float, ends))
        # PS3.3 C.11.2.1.2.1: a width w shows w values, the middle one half below the centre.
        return (first + last + 1) / 2, last - first + 1


def read_grey_display(header: Dataset) -> GreyDisplay | None:
    """Return how to display the values of an X-ray.

    Args:
        header: header of an X-ray that was decoded.

    Returns:
        None for an X-ray in colour.

    Raises:
        ValueError: a lookup table contradicts its description.
    """
    layout = read_pixel_layout(header)
    if not layout.is_grey:
        return None
    meta = getattr(header, "file_meta", None)
    syntax = None if meta is None else meta.get("TransferSyntaxUID")
    tables = GreyTables(header, layout, is_little_endian=str(syntax) != _BIG_ENDIAN)
    function = str(header.get("VOILUTFunction", "") or "").strip().upper()
    return GreyDisplay(
        slope=header_number(header, "RescaleSlope", 1.0) or 1.0,
        intercept=header_number(header, "RescaleIntercept", 0.0),
        modality=_plain(tables.modality),
        voi=_plain(tables.voi),
        window=_first_window(header),
        function=function if function in _FUNCTIONS else "LINEAR",
        is_inverse=is_shown_inverted(layout, header, tables),
        stored_range=value_range(layout),
    )


def is_shown_inverted(layout: PixelLayout, header: Dataset, tables: GreyTables) -> bool:
    """Return whether the header shows the highest values black, ignoring slope and VOI table."""
    is_falling = layout.photometric == "MONOCHROME1"
    if tables.presentation is not None:
        last = len(tables.presentation.entries) - 1
        return is_falling != tables.presentation.falls_between(0, last)
    shape = str(header.get("PresentationLUTShape", "") or "").strip().upper()
    return is_falling or shape == "INVERSE"


def value_range(layout: PixelLayout) -> tuple[int, int]:
    """Return the lowest and the highest value that can be stored."""
    if layout.is_signed:
        half = 1 << (layout.bits_stored - 1)
        return -half, half - 1
    return 0, (1 << layout.bits_stored) - 1


def header_number(header: Dataset, keyword: str, default: float) -> float:
    """Return a finite number of a header; `default` without one."""
    try:
        value = float(header.get(keyword, default))
    except (TypeError, ValueError):
        return default
    return value if np.isfinite(value) else default


def header_numbers(header: Dataset, keyword: str) -> list[float]:
    """Return the first numbers of a header's attribute; none if one of them is not a number."""
    value = header.get(keyword)
    parts = value if isinstance(value, list | tuple | MultiValue) else [value]
    found = []
    for part in list(parts)[:_MOST_VALUES]:
        try:
            number = float(part)
        except (TypeError, ValueError):
            return []
        found.append(number if np.isfinite(number) else 0.0)
    return found


def _plain(table: LookupTable | None) -> ShownTable | None:
    return (
        None
        if table is None
        else ShownTable(table.first, tuple(table.entries.tolist()), table.bits)
    )


def _first_window(header: Dataset) -> tuple[float, float] | None:
    """Return the header's first window."""
    centers, widths = (header_numbers(header, f"Window{name}") for name in ("Center", "Width"))
    pairs = zip(centers, widths, strict=False)
    return next(((center, width) for center, width in pairs if width >= 1), None)
