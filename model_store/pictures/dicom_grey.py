"""Convert stored DICOM values to grey values, brighter for denser tissue.

What is applied and what is not:

* Applied, because the picture is wrong without it: position of the stored bits, sign, pixel
  padding, and everything that decides which end is white: MONOCHROME1, a negative rescale slope, a
  falling VOI lookup table, a falling or INVERSE presentation lookup table.
* Applied when present: the modality lookup table (some older CR plates store a curve).
* Applied where needed: a window that has most of the pixels, when the values span several times its
  width. It is widened, and only values beyond it are clipped.
* Not applied: rescale slope and intercept, because they scale all values alike and the model's
  percentile window undoes that. Nor are other VOI windows, nor the shape of a rising lookup table.
  Header windows are sometimes wrong, and clipped values are lost, so the model gets the whole
  range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from model_store.pictures.dicom_display import (
    GreyTables,
    header_number,
    header_numbers,
    is_shown_inverted,
    value_range,
)
from model_store.pictures.dicom_layout import PixelLayout
from model_store.pictures.edge_regions import surrounding_regions
from model_store.pictures.picture_warnings import PictureWarning, PictureWarningCode

LEAST_JUMP = 0.05
"""Share of the range of values; neighbours that differ by more are padding and picture."""
MOST_UNEXPECTED_BITS = 0.05
"""Share of pixels with bits above the highest stored bit; letters of an overlay cover less."""
LEAST_RANGE_IN_WINDOWS = 3.0
"""Least ratio of the range of values (percentiles 0.5 to 99.5) to the window's width at which the
window is applied. A window that fits its X-ray has a ratio near 1."""
LEAST_SHARE_IN_WINDOW = 0.6
"""Least share of the pixels in a window that is applied."""
WINDOW_MARGIN = 0.25
"""Share of its width by which an applied window is widened at either end."""
_TABLE_RANGE = 65_535
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)


def to_monochrome2(
    stored: NDArray[Any], layout: PixelLayout, header: Dataset, is_little_endian: bool = True
) -> tuple[NDArray[Any], list[PictureWarning]]:
    """Convert decoded grey values to the model's: from 0 up, brighter for denser tissue.

    Args:
        stored: decoded values, (H, W), `bits_allocated` wide, unused bits unchanged.
        layout: how `stored` represents values: bits, sign and photometric interpretation.
        header: the header, for padding, rescale slope, lookup tables and their presentation.
        is_little_endian: byte order of the header's tables.

    Returns:
        (H, W) uint8 when 8 bits or fewer are stored, else uint16, and what was changed or looks
        contradictory.

    Raises:
        ValueError: a lookup table contradicts its description.
    """
    tables = GreyTables(header, layout, is_little_endian)
    values = _stored_values(stored, layout)  # (H, W)
    lowest, highest = value_range(layout)
    padding = _padding(values, layout, header)
    is_inverted, warnings = _direction(values, padding, layout, header, tables)
    if padding is not None:
        black = values[~padding].max() if is_inverted else values[~padding].min()
        values = np.where(padding, black, values)
    if tables.modality is not None:
        values, lowest, highest = tables.modality.apply(values), 0, _TABLE_RANGE
    values, window_warnings = _windowed(values, header, tables, padding)
    warnings += window_warnings
    grey = _from_zero(values, lowest, highest, is_inverted)
    return grey, warnings + _bits_warnings(stored, layout, header)


def _stored_values(stored: NDArray[Any], layout: PixelLayout) -> NDArray[Any]:
    """Return the values without unused bits, in the type of `stored`, or int32 if signed."""
    shift = layout.high_bit + 1 - layout.bits_stored
    mask = (1 << layout.bits_stored) - 1  # drops overlay planes in unused bits
    if stored.dtype.kind == "u" and not layout.is_signed:
        native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        most = int(np.iinfo(native.dtype).max)
        shifted = np.right_shift(native, np.array(shift, native.dtype)) if shift else native
        return (
            np.bitwise_and(shifted, np.array(mask & most, native.dtype)) if mask < most else shifted
        )
    unsigned = stored.astype(np.int32) & ((1 << layout.bits_allocated) - 1)
    unsigned >>= shift
    unsigned &= mask
    if not layout.is_signed:
        return unsigned
    sign_bit = 1 << (layout.bits_stored - 1)
    return (unsigned ^ sign_bit) - sign_bit


def _bits_warnings(
    stored: NDArray[Any], layout: PixelLayout, header: Dataset
) -> list[PictureWarning]:
    """Warn if bits above the highest stored bit are set all over the picture: it may use them."""
    above = ((1 << layout.bits_allocated) - 1) >> (layout.high_bit + 1) << (layout.high_bit + 1)
    for group in _OVERLAY_GROUPS:
        position = header.get((group, 0x0102))
        if position is not None and isinstance(position.value, int) and position.value > 0:
            above &= ~(1 << position.value)
    if not above or stored.dtype.kind != "u" or layout.is_signed:  # signs fill these bits
        return []
    extra = stored & np.array(above & np.iinfo(stored.dtype).max, stored.dtype)
    if np.count_nonzero(extra) <= MOST_UNEXPECTED_BITS * stored.size:
        return []
    return [
        PictureWarning(
            PictureWarningCode.BITS_BEYOND_STORED,
            "Much of the DICOM image has bits set above HighBit; they were dropped. Compare the "
            "overlay with the X-ray.",
        )
    ]


def _from_zero(values: NDArray[Any], lowest: int, highest: int, is_inverted: bool) -> NDArray[Any]:
    """Return values as (H, W) uint8 or uint16 from 0 on, with dense tissue bright."""
    dtype: type[np.uint8 | np.uint16] = np.uint8 if highest - lowest <= 255 else np.uint16
    if values.dtype.kind == "u" and lowest == 0:
        narrow = values.astype(dtype, copy=False)
        return np.subtract(np.array(highest, dtype), narrow) if is_inverted else narrow
    grey = np.subtract(highest, values) if is_inverted else np.subtract(values, lowest)
    return np.asarray(np.clip(grey, 0, np.iinfo(dtype).max).astype(dtype))


def _direction(
    values: NDArray[Any],
    padding: NDArray[np.bool_] | None,
    layout: PixelLayout,
    header: Dataset,
    tables: GreyTables,
) -> tuple[bool, list[PictureWarning]]:
    """Return whether to exchange white and black, and warnings about it."""
    shape = str(header.get("PresentationLUTShape", "") or "").strip().upper()
    is_falling = is_shown_inverted(layout, header, tables)
    if tables.modality is None and header_number(header, "RescaleSlope", 1.0) < 0:
        is_falling = not is_falling
    if tables.voi is not None and _voi_falls(tables, values, padding, header):
        is_falling = not is_falling
    contradiction = None
    if tables.presentation is None and shape == "INVERSE" and layout.photometric == "MONOCHROME2":
        contradiction = "the grey values were inverted, as the presentation asks"
    elif (
        tables.presentation is None and shape == "IDENTITY" and layout.photometric == "MONOCHROME1"
    ):
        contradiction = "the photometric interpretation was followed"
    warnings = []
    if is_falling:
        warnings.append(
            PictureWarning(
                PictureWarningCode.INVERTED_TO_MONOCHROME2,
                "The DICOM image stores white as its lowest value; the grey values were inverted.",
            )
        )
    if contradiction:
        warnings.append(
            PictureWarning(
                PictureWarningCode.CONTRADICTORY_PRESENTATION,
                "PhotometricInterpretation and PresentationLUTShape contradict each other; "
                f"{contradiction}. Look at the overlay: bones must be white.",
            )
        )
    return is_falling, warnings


def _voi_falls(
    tables: GreyTables, values: NDArray[Any], padding: NDArray[np.bool_] | None, header: Dataset
) -> bool:
    """Return whether the VOI lookup table falls over the range of the picture's values."""
    assert tables.voi is not None
    sample = values[::4, ::4]
    if padding is not None:
        sample = sample[~padding[::4, ::4]] if (~padding[::4, ::4]).any() else sample
    ends = np.percentile(sample, (1, 99))
    if tables.modality is not None:
        outputs = tables.modality.apply(np.rint(ends).astype(np.int64)).astype(float)
    else:
        slope, intercept = (
            header_number(header, "RescaleSlope", 1.0),
            header_number(header, "RescaleIntercept", 0.0),
        )
        outputs = ends * slope + intercept
    lowest, highest = sorted(float(value) for value in outputs)
    if lowest == highest:
        lowest, highest = tables.voi.first, tables.voi.first + len(tables.voi.entries) - 1
    return tables.voi.falls_between(lowest, highest)


def _windowed(
    values: NDArray[Any], header: Dataset, tables: GreyTables, padding: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], list[PictureWarning]]:
    """Clip to the header's window if the values span several times its width.

    A white border far above the anatomy would squeeze the anatomy into few grey levels. The window
    that has most of the pixels is then the picture, and values beyond it are clipped to its widened
    ends.
    """
    bounds = _window_bounds(header, tables)
    if bounds is None:
        return values, []
    first, last = bounds
    if float(values.max()) - float(values.min()) < LEAST_RANGE_IN_WINDOWS * (last - first):
        return values, []
    real = values[::2, ::2] if padding is None else values[::2, ::2][~padding[::2, ::2]]
    lowest, highest = np.percentile(real, (0.5, 99.5)) if real.size else (0.0, 0.0)
    share = np.count_nonzero((real >= first) & (real <= last)) / max(real.size, 1)
    if highest - lowest < LEAST_RANGE_IN_WINDOWS * (last - first) or share < LEAST_SHARE_IN_WINDOW:
        return values, []
    margin = WINDOW_MARGIN * (last - first)
    limits = (
        max(int(np.floor(first - margin)), int(values.min())),
        min(int(np.ceil(last + margin)), int(values.max())),
    )
    remark = PictureWarning(
        PictureWarningCode.WINDOW_APPLIED,
        "Values far outside the window of the DICOM header were clipped, because most of the "
        "X-ray lies in it.",
    )
    return np.clip(values, *limits), [remark]


def _window_bounds(header: Dataset, tables: GreyTables) -> tuple[float, float] | None:
    """Return the header's widest window, in units of the values that it applies to."""
    centers, widths = (header_numbers(header, f"Window{name}") for name in ("Center", "Width"))
    windows = [
        (width, center) for center, width in zip(centers, widths, strict=False) if width >= 1
    ]
    if not windows:
        return None
    width, center = max(windows)
    ends = [center - width / 2, center + width / 2]
    if tables.modality is None:
        slope = header_number(header, "RescaleSlope", 1.0) or 1.0
        intercept = header_number(header, "RescaleIntercept", 0.0)
        ends = sorted((end - intercept) / slope for end in ends)
    return ends[0], ends[1]


def _padding(
    values: NDArray[Any], layout: PixelLayout, header: Dataset
) -> NDArray[np.bool_] | None:
    """Return the padded pixels (PS3.3 C.7.5.1.1.2), or None without padding.

    Padding marks the surroundings of the exposed field with a value of its own, often white; left
    in place it would shift every percentile.
    """
    padding = _padding_value(header, "PixelPaddingValue", layout)
    if padding is None:
        return None
    limit = _padding_value(header, "PixelPaddingRangeLimit", layout)
    first, last = sorted((padding, padding if limit is None else limit))
    marked = (values >= first) & (values <= last)
    if not marked.any() or marked.all():
        return None
    real = values[~marked]
    least_jump = LEAST_JUMP * (float(real.max()) - float(real.min()))
    regions = surrounding_regions(marked, values, least_jump)
    return regions if regions.any() else None


def _padding_value(header: Dataset, keyword: str, layout: PixelLayout) -> int | None:
    value = header.get(keyword)
    if not isinstance(value, int):
        return None
    # Implicit files may give it the wrong sign (VR US or SS): bring it into the value range.
    lowest, highest = value_range(layout)
    span = highest - lowest + 1
    return value if lowest <= value <= highest else (int(value) - lowest) % span + lowest
