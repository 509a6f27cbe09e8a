"""What a deployment chooses for all its DICOM objects: apart, so that choosing needs no pydicom."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class PlaneChoice(Enum):
    """What an object says about its plane when its X-ray has none.

    Attributes:
        DETECTOR: the detector's plane, in a frame of reference of the image's own.
        NONE: nothing.
    """

    DETECTOR = "detector"
    NONE = "none"


@dataclass(frozen=True)
class ObjectOptions:
    """What a deployment chooses for all its DICOM objects.

    Attributes:
        uid_key: secret that the derived UIDs depend on; empty for none.
        plane: what is said about the plane when the X-ray has none of its own.
    """

    uid_key: str = ""
    plane: PlaneChoice = PlaneChoice.DETECTOR


DEFAULT_OPTIONS = ObjectOptions()
