"""From stored DICOM values to grey values where brighter means denser.

What is applied, and what is not, and why:

* Applied, because it is lossless and a wrong picture results without it: the position of the
  stored bits, the sign, MONOCHROME1, a falling rescale slope, pixel padding.
* Applied when present: the modality lookup table (some older CR plates store a curve).
* Not applied: rescale slope and intercept (they scale all values alike, which the model's own
  percentile window undoes) and the VOI window or lookup table. A window clips, header windows
  are sometimes wrong, and what is clipped is lost; the model sees the whole range instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut

from model_store.pictures.picture_errors import UndecodablePictureError, UnsupportedPictureError

_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"})


@dataclass(frozen=True)
class PixelLayout:
    """How a DICOM image stores its pixels (PS3.3 C.7.6.3), as far as it is supported.

    Attributes:
        rows: height in pixels.
        columns: width in pixels.
        samples: 1 (grey) or 3 (colour).
        bits_allocated: 8 or 16.
        bits_stored: bits that carry the value.
        high_bit: position of the highest of them.
        is_signed: two's complement values.
        photometric: photometric interpretation, upper case.
        is_planar: colours lie one after another, and not pixel by pixel.
    """

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    photometric: str
    is_planar: bool = False

    @property
    def is_grey(self) -> bool:
        """Whether there is one sample per pixel."""
        return self.samples == 1

    @property
    def is_luma_chroma(self) -> bool:
        """Whether colours are stored as a luminance and two differences."""
        return self.photometric in ("YBR_FULL", "YBR_FULL_422")


def read_pixel_layout(dataset: Dataset) -> PixelLayout:
    """Reads the image pixel attributes.

    Args:
        dataset: the parsed header.

    Raises:
        UndecodablePictureError: an attribute is absent or contradicts another.
        UnsupportedPictureError: several frames, other colours, or more than 16 bits.
    """
    if _integer(dataset, "NumberOfFrames", 1) > 1:
        raise UnsupportedPictureError("The DICOM object has several frames; send a single X-ray.")
    photometric = str(dataset.get("PhotometricInterpretation", "") or "").strip().upper()
    bits_allocated = _integer(dataset, "BitsAllocated")
    bits_stored = _integer(
        dataset, "BitsStored", _integer(dataset, "HighBit", bits_allocated - 1) + 1
    )
    layout = PixelLayout(
        rows=_integer(dataset, "Rows"),
        columns=_integer(dataset, "Columns"),
        samples=_integer(dataset, "SamplesPerPixel", 3 if photometric in _COLOURS else 1),
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=_integer(dataset, "HighBit", bits_stored - 1),
        is_signed=_integer(dataset, "PixelRepresentation", 0) == 1,
        photometric=photometric,
        is_planar=_integer(dataset, "PlanarConfiguration", 0) == 1,
    )
    _check_layout(layout)
    return layout


def to_monochrome2(
    stored: NDArray[Any], layout: PixelLayout, dataset: Dataset
) -> tuple[NDArray[Any], bool]:
    """Turns decoded grey values into what the model takes.

    Args:
        stored: decoded values, (H, W), `bits_allocated` wide, unused bits as they came.
        layout: their layout.
        dataset: the header, for padding, rescale slope and modality lookup table.

    Returns:
        (H, W) uint8 when 8 bits or fewer are stored, else uint16, and whether the values were
        inverted.
    """
    values = _stored_values(stored, layout)  # (H, W) int32
    values = _without_padding(values, layout, dataset)
    lowest, highest = _value_range(layout)
    if "ModalityLUTSequence" in dataset and "RescaleSlope" not in dataset:
        values = np.asarray(apply_modality_lut(values, dataset)).astype(np.int64)
        lowest, highest = 0, 65535
    is_inverted = (layout.photometric == "MONOCHROME1") != _has_falling_slope(dataset)
    grey = highest - values if is_inverted else values - lowest
    dtype = np.uint8 if highest - lowest <= 255 else np.uint16
    return np.clip(grey, 0, np.iinfo(dtype).max).astype(dtype), is_inverted


def _stored_values(stored: NDArray[Any], layout: PixelLayout) -> NDArray[np.int32]:
    unsigned = stored.astype(np.int32) & ((1 << layout.bits_allocated) - 1)
    unsigned >>= layout.high_bit + 1 - layout.bits_stored
    unsigned &= (1 << layout.bits_stored) - 1  # drops overlay planes kept in unused bits
    if not layout.is_signed:
        return unsigned
    sign_bit = 1 << (layout.bits_stored - 1)
    return (unsigned ^ sign_bit) - sign_bit


def _value_range(layout: PixelLayout) -> tuple[int, int]:
    if layout.is_signed:
        half = 1 << (layout.bits_stored - 1)
        return -half, half - 1
    return 0, (1 << layout.bits_stored) - 1


def _without_padding(
    values: NDArray[np.int32], layout: PixelLayout, dataset: Dataset
) -> NDArray[np.int32]:
    """Sets padding (PS3.3 C.7.5.1.1.2) to the grey value that displays as black.

    Padding marks the surroundings of the exposed field with a value of its own, often white;
    left in place it would shift every percentile.
    """
    padding = _padding_value(dataset, "PixelPaddingValue", layout)
    if padding is None:
        return values
    limit = _padding_value(dataset, "PixelPaddingRangeLimit", layout)
    first, last = sorted((padding, padding if limit is None else limit))
    is_padding = (values >= first) & (values <= last)
    if not is_padding.any() or is_padding.all():
        return values
    shows_black_at_top = (layout.photometric == "MONOCHROME1") != _has_falling_slope(dataset)
    real = values[~is_padding]
    filled = values.copy()
    filled[is_padding] = real.max() if shows_black_at_top else real.min()
    return filled


def _padding_value(dataset: Dataset, keyword: str, layout: PixelLayout) -> int | None:
    value = dataset.get(keyword)
    if not isinstance(value, int):
        return None
    # Read with the wrong sign (VR US or SS) in implicit files: bring it into the value range.
    lowest, highest = _value_range(layout)
    span = highest - lowest + 1
    return value if lowest <= value <= highest else (int(value) - lowest) % span + lowest


def _has_falling_slope(dataset: Dataset) -> bool:
    slope = dataset.get("RescaleSlope")
    return slope is not None and float(slope) < 0


def _check_layout(layout: PixelLayout) -> None:
    if layout.samples not in (1, 3) or layout.photometric == "PALETTE COLOR":
        raise UnsupportedPictureError("The DICOM image has palette colour or unusual channels.")
    if layout.is_grey and layout.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UndecodablePictureError(
            "The DICOM image does not say whether its lowest value is black or white "
            "(PhotometricInterpretation)."
        )
    if not layout.is_grey and layout.photometric not in _COLOURS:
        raise UnsupportedPictureError(
            "The DICOM image has colours of a kind that is not read (PhotometricInterpretation)."
        )
    if layout.bits_allocated not in (8, 16) or (layout.samples == 3 and layout.bits_allocated != 8):
        raise UnsupportedPictureError(
            "The DICOM image must have 8 or 16 bits of grey or 8 bits per colour channel "
            "(BitsAllocated)."
        )
    if not 1 <= layout.bits_stored <= layout.high_bit + 1 <= layout.bits_allocated:
        raise UndecodablePictureError(
            "The DICOM header's BitsAllocated, BitsStored and HighBit contradict each other."
        )
    if layout.photometric == "YBR_FULL_422" and layout.columns % 2:
        raise UnsupportedPictureError(
            "The DICOM image shares colours between pairs of an odd number of columns."
        )


def _integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise UndecodablePictureError(
                f"The DICOM header lacks {keyword}, which its pixels need."
            )
        return default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UndecodablePictureError(
            f"The DICOM header's {keyword} is not a single number."
        ) from None
