"""Settings of a deployment for all its DICOM objects, in a module that needs no pydicom."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum

from service.imaging.derived_uids import derive_key, derive_uid


class PlaneChoice(Enum):
    """The plane of an object whose X-ray has none.

    Attributes:
        DETECTOR: the detector's plane, in a frame of reference for this image alone.
        NONE: no plane.
    """

    DETECTOR = "detector"
    NONE = "none"


@dataclass(frozen=True)
class ObjectOptions:
    """Settings of a deployment for all its DICOM objects.

    Attributes:
        uid_key: secret that the derived UIDs depend on; empty for none.
        plane: plane of objects whose X-ray has none.
        device_uid: UID of the service as a device, derived from the deployment's key, if known.
    """

    uid_key: str = field(default="", repr=False)
    plane: PlaneChoice = PlaneChoice.DETECTOR
    device_uid: str = ""

    def of_xray(self, xray_digest: str, model_sha256: str) -> ObjectOptions:
        """Return the options for an image worker that renders the objects of one X-ray.

        The deployment's key stays in the serving process, so a compromised worker reveals nothing
        about the UIDs of other X-rays.

        Args:
            xray_digest: digest that identifies the X-ray.
            model_sha256: digest of the model's weights.
        """
        return dataclasses.replace(
            self,
            uid_key=derive_key(self.uid_key, xray_digest) if self.uid_key else "",
            device_uid=derive_uid(self.uid_key, "device", model_sha256),
        )

    def without_key(self) -> ObjectOptions:
        """Return the options for an answer without DICOM objects."""
        return dataclasses.replace(self, uid_key="")


DEFAULT_OPTIONS = ObjectOptions()
