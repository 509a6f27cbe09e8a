"""A chest phantom: a synthetic frontal chest X-ray with its true lung masks.

Examples, self tests and small training runs need a picture that may be published and whose true
mask is known. It is made like an X-ray: a thickness map per tissue, Beer-Lambert attenuation,
noise, logarithm, display curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.conventions import CONVENTIONS
from training.phantom.anatomy import Bools, sample_anatomy
from training.phantom.bone import bone_cm
from training.phantom.exposure import display, expose
from training.phantom.frame import frame_of, lung_masks, sample_view
from training.phantom.marks import add_marks
from training.phantom.tissue import soft_tissue_cm

STREAMS = range(18, 24)
"""Random streams of the six steps, chosen so that seed 7, the example, is an unremarkable adult."""


@dataclass(frozen=True)
class Phantom:
    """A synthetic X-ray and its true masks.

    Attributes:
        image: The picture, brighter = denser. (H, W) uint8
        lung_field: Visible lung fields, heart and mediastinum outside. (H, W) bool
        whole_lung: Lungs with the part behind the heart. (H, W) bool
        image_left_half: Pixels left of the spine in the picture. (H, W) bool
    """

    image: NDArray[np.uint8]
    lung_field: Bools
    whole_lung: Bools
    image_left_half: Bools

    def mask(self, convention: str) -> Bools:
        """Mask of both lungs.

        Args:
            convention: ``lung_field`` or ``whole_lung``.

        Returns:
            The mask. (H, W)

        Raises:
            ValueError: The convention is neither of the two.
        """
        if convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {CONVENTIONS}, not {convention!r}")
        return self.lung_field if convention == "lung_field" else self.whole_lung

    def image_left_lung(self, convention: str) -> Bools:
        """Lung on the left of the picture, the patient's right one. (H, W)."""
        return self.mask(convention) & self.image_left_half

    def image_right_lung(self, convention: str) -> Bools:
        """Lung on the right of the picture, the patient's left one. (H, W)."""
        return self.mask(convention) & ~self.image_left_half


def draw_phantom(seed: int, size: tuple[int, int] = (512, 512)) -> Phantom:
    """Draw the phantom of a seed; the same seed is the same patient at any size.

    Args:
        seed: Any integer that is not negative.
        size: Height and width in pixels, at least 32 each.

    Returns:
        The picture and its masks.

    Raises:
        ValueError: The seed is negative or the size too small.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if min(size) < 32:
        raise ValueError(f"size must be at least 32 x 32 pixels, got {size}")
    # One stream per step, so that random numbers per pixel in one step do not affect the others.
    patient, position, tissue, detector, viewer, marks = (
        np.random.default_rng([seed, stream]) for stream in STREAMS
    )
    anatomy = sample_anatomy(patient)
    frame = frame_of(anatomy, sample_view(position), size)
    lung_field, whole_lung = lung_masks(anatomy, frame)
    soft = soft_tissue_cm(anatomy, frame, tissue)
    bone = bone_cm(anatomy, frame, tissue)
    density = expose(soft, bone, frame.pixels_per_unit, detector)
    image = display(density, lung_field, frame.pixels_per_unit, viewer)
    return Phantom(
        image=add_marks(image, whole_lung, marks),
        lung_field=lung_field,
        whole_lung=whole_lung,
        image_left_half=frame.u < 0.0,
    )
