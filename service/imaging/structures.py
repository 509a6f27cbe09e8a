"""The structures that masks can show, with their codes and colours.

Codes are SNOMED CT (PS3.16 CID 7151, CID 244). Sides are the patient's. Colours are CIELab
(PS3.3 C.10.7.1.1), from the palette of Okabe and Ito, which colour-blind people tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

LUNGS, RIGHT_LUNG, LEFT_LUNG, HEART = "lungs", "right_lung", "left_lung", "heart"
_LUNG_CODE = ("39607008", "SCT", "Lung")
_HEART_CODE = ("80891009", "SCT", "Heart")
_RIGHT = ("24028007", "SCT", "Right")
_LEFT = ("7771000", "SCT", "Left")

_SKY_BLUE = (45761, 29808, 23959)  # RGB 86, 180, 233
_BLUE = (30129, 32193, 22263)  # 0, 114, 178
_ORANGE = (46273, 37131, 52089)  # 230, 159, 0
_PURPLE = (40007, 42800, 30170)  # 204, 121, 167


@dataclass(frozen=True)
class Structure:
    """One structure of the chest.

    Attributes:
        label: its English name.
        code: value, scheme and meaning of its anatomy.
        laterality: value, scheme and meaning of its side; None without a side.
        display_cielab: colour, as DICOM stores CIELab in 16 bits.
    """

    label: str
    code: tuple[str, str, str]
    laterality: tuple[str, str, str] | None
    display_cielab: tuple[int, int, int]


STRUCTURES: Mapping[str, Structure] = MappingProxyType(
    {
        LUNGS: Structure("Lung", _LUNG_CODE, None, _SKY_BLUE),
        RIGHT_LUNG: Structure("Right lung", _LUNG_CODE, _RIGHT, _BLUE),
        LEFT_LUNG: Structure("Left lung", _LUNG_CODE, _LEFT, _ORANGE),
        HEART: Structure("Heart", _HEART_CODE, None, _PURPLE),
    }
)
"""All structures, by their names in the API."""
