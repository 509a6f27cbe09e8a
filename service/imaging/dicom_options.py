"""What a deployment chooses for all its DICOM objects; this module needs no pydicom."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum

from service.imaging.derived_uids import derive_key, derive_uid


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
        device_uid: UID of the service as a device, where it is known; it follows from the
            deployment's key.
    """

    uid_key: str = field(default="", repr=False)
    plane: PlaneChoice = PlaneChoice.DETECTOR
    device_uid: str = ""

    def of_xray(self, xray_digest: str, model_sha256: str) -> ObjectOptions:
        """Return what an image worker gets to render the objects of one X-ray.

        The deployment's key stays in the serving process: who takes a worker over learns nothing
        about the UIDs of other X-rays.

        Args:
            xray_digest: names the X-ray.
            model_sha256: names the model.
        """
        return dataclasses.replace(
            self,
            uid_key=derive_key(self.uid_key, xray_digest) if self.uid_key else "",
            device_uid=derive_uid(self.uid_key, "device", model_sha256),
        )

    def without_key(self) -> ObjectOptions:
        """Return what an image worker gets for an answer that holds no object."""
        return dataclasses.replace(self, uid_key="")


DEFAULT_OPTIONS = ObjectOptions()
