"""How a DICOM image stores its pixels: the attributes of the image pixel module.

Format: DICOM PS3.3, section C.7.6.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from model_store.pictures.picture_errors import UndecodablePictureError, UnsupportedPictureError

_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"})


@dataclass(frozen=True)
class PixelLayout:
    """How a DICOM image stores its pixels (PS3.3 C.7.6.3); supported layouts only.

    Attributes:
        rows: height in pixels.
        columns: width in pixels.
        samples: 1 (grey) or 3 (colour).
        bits_allocated: 8 or 16.
        bits_stored: bits that carry the value.
        high_bit: position of the highest of them.
        is_signed: two's complement values.
        photometric: photometric interpretation, upper case.
        is_planar: colours are stored plane by plane, and not pixel by pixel.
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
    """Read the image pixel attributes.

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
