"""Messages between serving process and image worker about two models' masks, as JSON.

As in `task_data`: each value has its type and its bounds, and logits travel as shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, with_config

COMPARE_TASK = "compare"

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_Side = Annotated[int, Field(ge=1, le=2**20)]


@with_config(_STRICT)
@dataclass(frozen=True)
class LogitsSize:
    """Size of one mask's logits."""

    side: int
    input_size: int  # side of the network's input that they cover, pixels


@with_config(_STRICT)
@dataclass(frozen=True)
class LogitsPair:
    """Two masks of one structure in one box.

    Attributes:
        given: the mask of the served model.
        other: the mask of another model.
    """

    given: LogitsSize
    other: LogitsSize


@with_config(_STRICT)
@dataclass(frozen=True)
class CompareOrder:
    """Request to compare two models' masks.

    Attributes:
        width: width of the upright X-ray, pixels.
        height: height of the upright X-ray, pixels.
        threshold: probability from which a pixel is in the mask.
    """

    width: _Side
    height: _Side
    threshold: float
    pairs: tuple[LogitsPair, ...]


@with_config(_STRICT)
@dataclass(frozen=True)
class ComparedMasks:
    """The similarity of two masks.

    Attributes:
        dice: Dice of the two, 0 to 1; 1 if both are empty.
        area_ratio: the other's area over the given one's; None where the latter is empty.
    """

    dice: Annotated[float, Field(ge=0, le=1)]
    area_ratio: Annotated[float, Field(ge=0, le=1e9)] | None


COMPARE_ORDER: TypeAdapter[CompareOrder] = TypeAdapter(CompareOrder)
COMPARED: TypeAdapter[tuple[ComparedMasks, ...]] = TypeAdapter(tuple[ComparedMasks, ...])
