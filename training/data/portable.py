"""Give an X-ray of an upright patient the features of a portable one.

Intensive care units image patients in bed. Tubes, lines and electrode leads are on the chest, and
lungs are hazy or white. A tilted grid shades one side, and a rotated or small cassette cuts off
parts of the lungs. Each feature has its own probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
"""Grey values of 0..1, (S, S)."""

Levels = NDArray[np.uint8]
"""Grey values of 0..255, (S, S)."""

_SUBPIXEL_BITS = 4
"""OpenCV draws lines at positions in sixteenths of a pixel."""


def portable_xray(levels: Levels, rng: np.random.Generator) -> tuple[Levels, Levels]:
    """Return the X-ray with features of a portable one.

    Args:
        levels: Grey values, uint8 (S, S).
        rng: Source of randomness.

    Returns:
        Grey values, uint8 (S, S), and 1 where the picture still shows the patient, uint8 (S, S).
    """
    image = levels.astype(np.float32) / np.float32(255.0)
    for probability, change in _CHANGES:
        if rng.random() < probability:
            image = change(image, rng)
    seen = np.ones(levels.shape, np.uint8)
    if rng.random() < 0.45:
        seen = _cassette(levels.shape[0], rng)
        outside = np.float32(rng.choice([0.0, 0.0, 0.08, 1.0]))
        image = np.where(seen > 0, image, outside)
    return np.asarray(cv2.convertScaleAbs(np.clip(image, 0, 1), alpha=255.0), np.uint8), seen


def _veil(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Add haze: an effusion behind the lungs of a lying patient, or scatter."""
    size = image.shape[0]
    coarse = rng.uniform(0.0, 0.55, (4, 4)).astype(np.float32)
    field = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(image + (np.float32(0.85) - image).clip(0) * field, np.float32)


def _opacities(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Whiten parts of the picture: consolidations of cloudy texture."""
    size = image.shape[0]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    noise = cv2.resize(
        rng.uniform(0.4, 1.0, (24, 24)).astype(np.float32), (size, size),
        interpolation=cv2.INTER_CUBIC,
    )  # fmt: skip
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(0.12, 0.88, 2) * size
        wide, high = rng.uniform(0.03, 0.16, 2) * size
        blob = np.exp(-(((columns - x) / wide) ** 2) - ((rows - y) / high) ** 2)
        strength = np.float32(rng.uniform(0.2, 0.85)) * blob * noise
        image = image + (np.float32(rng.uniform(0.65, 0.9)) - image).clip(0) * strength
    return np.asarray(image, np.float32)


def _effusion(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Whiten one half of the picture from the bottom up to a soft level."""
    size = image.shape[0]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / np.float32(size)
    level = rng.uniform(0.45, 0.9) + rng.uniform(-0.15, 0.15) * (columns - 0.5)
    rising = np.clip((rows - level) / rng.uniform(0.05, 0.4), 0, 1)
    side = np.clip((columns - rng.uniform(0.4, 0.6)) * rng.choice([-12.0, 12.0]), 0, 1)
    strength = (rising * side * rng.uniform(0.3, 0.9)).astype(np.float32)
    return np.asarray(image + (np.float32(0.8) - image).clip(0) * strength, np.float32)


def _grid_cut_off(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Shade the picture from one side to the other."""
    size = image.shape[0]
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / np.float32(size) - 0.5
    ramp = np.float32(math.cos(angle)) * columns + np.float32(math.sin(angle)) * rows
    return np.asarray(image + ramp * np.float32(rng.uniform(0.15, 0.6)), np.float32)


def _steep(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Increase the contrast of middle greys, like a low tube voltage and post-processing."""
    slope, centre = rng.uniform(4.0, 9.0), rng.uniform(0.35, 0.65)
    return np.asarray(1 / (1 + np.exp(-slope * (image - np.float32(centre)))), np.float32)


def _local_contrast(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Equalize tiles, like consoles for portable units, which make lines visible."""
    tiles = int(rng.integers(2, 9))
    enhancer = cv2.createCLAHE(float(rng.uniform(1.5, 6.0)), (tiles, tiles))
    levels = np.asarray(cv2.convertScaleAbs(np.clip(image, 0, 1), alpha=255.0), np.uint8)
    return enhancer.apply(levels).astype(np.float32) / np.float32(255.0)


def _lines(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Draw leads with electrodes, and tubes of two parallel edges, over the chest."""
    size = image.shape[0]
    layer = np.zeros(image.shape, np.float32)
    for _ in range(int(rng.integers(1, 6))):
        start, end = rng.uniform(-0.05, 1.05, (2, 2))
        curve = _curve(start, end, rng, bend=0.35) * size
        _draw(layer, curve, float(rng.uniform(0.2, 0.75)), int(rng.integers(1, 4)))
        if rng.random() < 0.6:
            _electrode(layer, curve[-1], size, rng)
    if rng.random() < 0.6:  # a tracheal or gastric tube, or a line into the heart, from above
        start = np.array([rng.uniform(0.38, 0.62), -0.02])
        end = np.array([rng.uniform(0.42, 0.58), rng.uniform(0.25, 1.0)])
        curve = _curve(start, end, rng, bend=0.04) * size
        half, shade = rng.uniform(0.002, 0.011) * size, float(rng.uniform(0.12, 0.5))
        for side in (-half, half):
            _draw(layer, curve + np.array([side, 0.0]), shade, 1)
    return np.asarray(image + layer, np.float32)


def _curve(
    start: NDArray[np.float64], end: NDArray[np.float64], rng: np.random.Generator, bend: float
) -> NDArray[np.float64]:
    """Return a cubic curve between two points, in shares of the side, (40, 2)."""
    t = np.linspace(0, 1, 40)[:, None]
    first, second = (
        start + (end - start) * share + rng.normal(0.0, bend, 2) for share in (0.33, 0.67)
    )
    return np.asarray(
        (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second
        + t**3 * end
    )  # fmt: skip


def _draw(layer: Pixels, curve: NDArray[np.float64], shade: float, width: int) -> None:
    points = np.round(curve * 2**_SUBPIXEL_BITS).astype(np.int32)[:, None]
    cv2.polylines(layer, [points], False, shade, width, cv2.LINE_AA, _SUBPIXEL_BITS)


def _electrode(
    layer: Pixels, place: NDArray[np.float64], size: int, rng: np.random.Generator
) -> None:
    """Draw a clip and its pad where a lead ends."""
    centre = (int(place[0]), int(place[1]))
    radius = int(rng.uniform(0.012, 0.035) * size)
    cv2.circle(layer, centre, radius, float(rng.uniform(0.05, 0.25)), -1, cv2.LINE_AA)
    cv2.circle(layer, centre, max(radius // 3, 1), float(rng.uniform(0.4, 0.9)), -1, cv2.LINE_AA)


def _cassette(size: int, rng: np.random.Generator) -> Levels:
    """Return 1 within a rotated rectangle that cuts off up to a tenth at each edge, (S, S)."""
    angle = math.radians(rng.normal(0.0, 6.0))
    left, top, right, bottom = rng.uniform(-0.08, 0.11, 4)
    corners = np.array([[left, top], [1 - right, top], [1 - right, 1 - bottom], [left, 1 - bottom]])
    cos, sin = math.cos(angle), math.sin(angle)
    turned = (corners - 0.5) @ np.array([[cos, sin], [-sin, cos]]) + 0.5
    inside = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(inside, np.round(turned * size).astype(np.int32), 1)
    return inside


_CHANGES: tuple[tuple[float, Callable[[Pixels, np.random.Generator], Pixels]], ...] = (
    (0.45, _veil),
    (0.45, _opacities),
    (0.25, _effusion),
    (0.40, _grid_cut_off),
    (0.25, _steep),
    (0.30, _local_contrast),
    (0.75, _lines),
)
"""Probability and function of each change, in order."""
