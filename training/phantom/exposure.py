"""Turn thickness maps of the chest phantom into the picture of a detector and a viewer.

Beer-Lambert attenuation, scatter, quantum noise and detector blur; then the logarithm and a
display curve, dense = bright.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from training.phantom.anatomy import Bools, Floats

SOFT_PER_CM = 0.2
"""Attenuation of water near 60 keV, a usual mean energy (NIST XCOM: 0.206 / cm)."""

BONE_PER_CM = 0.42
"""Attenuation of bone beyond that of the water it displaces (cortical and spongy, averaged)."""


def expose(
    soft_cm: Floats, bone_cm: Floats, pixels_per_unit: float, rng: np.random.Generator
) -> Floats:
    """Expose an X-ray: return the attenuation in the noisy picture of a detector.

    Args:
        soft_cm: Soft tissue along each ray. (H, W)
        bone_cm: Bone along each ray. (H, W)
        pixels_per_unit: Scale of the picture.
        rng: Source of randomness.

    Returns:
        The logarithm of the attenuation, 0 in open air, larger = denser. (H, W)
    """
    primary = np.exp(-(SOFT_PER_CM * soft_cm + BONE_PER_CM * bone_cm)).astype(np.float32)
    scatter = _wide_blur(np.minimum(primary, 0.3), 0.12 * pixels_per_unit)
    signal = primary + np.float32(rng.uniform(0.1, 0.5)) * scatter
    signal = _blur(signal, rng.uniform(0.0005, 0.003) * pixels_per_unit)
    quanta = np.float32(10.0 ** rng.uniform(3.6, 5.2))
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal += noise * np.sqrt(signal / quanta)
    return -np.log(np.maximum(signal, 1e-3))


def _blur(picture: Floats, sigma: float) -> Floats:
    if sigma < 0.3:
        return picture
    return np.asarray(ndimage.gaussian_filter(picture, sigma, truncate=3.0), dtype=np.float32)


def _wide_blur(picture: Floats, sigma: float) -> Floats:
    """Blur on a picture of at most 64 pixels, which loses nothing of a wide blur."""
    height, width = picture.shape
    shrink = max(height, width) / 64.0
    if shrink <= 1.0:
        return _blur(picture, sigma)
    small_size = (max(round(width / shrink), 1), max(round(height / shrink), 1))
    small = np.asarray(Image.fromarray(picture).resize(small_size, Image.Resampling.BOX))
    wide = Image.fromarray(_blur(small, sigma / shrink))
    return np.asarray(wide.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def display(
    density: Floats, lungs: Bools, pixels_per_unit: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Window a picture for display, brighter = denser.

    Args:
        density: Logarithm of the attenuation. (H, W)
        lungs: The lungs, which the window must show. (H, W)
        pixels_per_unit: Scale of the picture.
        rng: Source of randomness.

    Returns:
        The picture. (H, W)
    """
    flatten = np.float32(rng.choice([0.0, 0.0, 0.3, 0.55]) * rng.uniform(0.7, 1.2))
    if flatten > 0.0:  # The viewer's dynamic range compression.
        density = density - flatten * _wide_blur(density, 0.3 * pixels_per_unit)
    if rng.random() < 0.4:  # Edge enhancement of a digital system.
        sharpness = rng.uniform(0.2, 1.0)
        density = density + sharpness * (density - _wide_blur(density, 0.04 * pixels_per_unit))
    sample = density[::4, ::4]
    lung_sample = sample[lungs[::4, ::4]]
    low = float(np.percentile(lung_sample, 2.0)) if lung_sample.size else float(sample.min())
    high = float(np.percentile(sample, rng.uniform(93.0, 99.5)))
    span = max(high - low, 1e-3)
    low -= span * rng.uniform(0.0, 0.3)
    shade = np.clip((density - low) / (high - low), 0.0, 1.15)
    shade = shade ** np.float32(rng.uniform(0.6, 1.5))
    shade = shade / (
        1.0 + np.maximum(shade - 0.8, 0.0)
    )  # The shoulder of the characteristic curve.
    bottom, top = rng.uniform(0.0, 45.0) * (rng.random() < 0.5), rng.uniform(180.0, 255.0)
    if rng.random() < 0.2:  # Archives export with little of the range.
        bottom, top = rng.uniform(0.0, 40.0), rng.uniform(90.0, 160.0)
    picture: NDArray[np.uint8] = np.clip(bottom + (top - bottom) * shade, 0.0, 255.0).astype(
        np.uint8
    )
    return picture
