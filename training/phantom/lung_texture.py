"""The texture of the chest phantom's lungs: vessels, hila and patches without air.

They are drawn on canvases in the patient frame and projected into the picture, so they do not
depend on its size.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from training.phantom.anatomy import Anatomy, Floats, table_value
from training.phantom.frame import Frame

CANVAS_PIXELS_PER_UNIT = 440.0
"""Canvas pixels per unit: the finest vessel is 1 canvas pixel, about 0.5 mm in an adult."""

BRANCH_GENERATIONS = 5


def vessels_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    """Return vessels, blood instead of air: trees that leave the hila, thinner with every branch.

    Args:
        anatomy: The patient.
        frame: The patient frame at every pixel.
        rng: Source of randomness.

    Returns:
        Thickness. (H, W)
    """
    margin = 0.1
    width = round(2.0 * (anatomy.half_width + margin) * CANVAS_PIXELS_PER_UNIT)
    height = round((anatomy.bottom + 2.0 * margin) * CANVAS_PIXELS_PER_UNIT)
    corner = (-anatomy.half_width - margin, -margin)
    canvas = Image.new("F", (width, height), 0.0)
    draw = ImageDraw.Draw(canvas)
    hilum_v = rng.uniform(0.43, 0.52)
    for side in (-1, 1):
        hilum_u = 0.9 * table_value(anatomy.medial_field[(side + 1) // 2], hilum_v) + 0.01
        root = (side * hilum_u, hilum_v - 0.03 * (side > 0))
        for angle in np.linspace(-1.35, 1.4, 9) + rng.normal(0.0, 0.1, 9):
            _draw_branch(draw, rng, corner, root, side, float(angle), 0)
    strength = float(rng.uniform(0.5, 1.3))
    picture = ndimage.gaussian_filter(np.asarray(canvas), 1.2, truncate=2.5) * strength
    vessels = frame.project(picture, corner, CANVAS_PIXELS_PER_UNIT)
    return vessels + _hila_cm(anatomy, frame, hilum_v, strength)


def _draw_branch(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    corner: tuple[float, float],
    start: tuple[float, float],
    side: int,
    angle: float,
    generation: int,
) -> None:
    """Draw one vessel and its branches; the angle is 0 outward and positive downward."""
    length = 0.17 * 0.84**generation * float(rng.uniform(0.7, 1.25))
    diameter = 0.03 * 0.62**generation
    bow = float(rng.normal(0.0, 0.2))  # Vessels bend: two halves at an angle.
    middle = _onward(start, side, angle - bow, 0.5 * length)
    stop = _onward(middle, side, angle + bow, 0.5 * length)
    line = [
        ((u - corner[0]) * CANVAS_PIXELS_PER_UNIT, (v - corner[1]) * CANVAS_PIXELS_PER_UNIT)
        for u, v in (start, middle, stop)
    ]
    # A round vessel is on average pi / 4 of its diameter deep; 1 unit is about 20 cm.
    depth_cm = 20.0 * diameter * math.pi / 4.0
    draw.line(line, fill=2.2 * depth_cm, width=max(round(diameter * CANVAS_PIXELS_PER_UNIT), 1))
    if generation + 1 == BRANCH_GENERATIONS:
        return
    for turn in (rng.uniform(-0.6, -0.05), rng.uniform(0.05, 0.6)):
        _draw_branch(draw, rng, corner, stop, side, angle + float(turn), generation + 1)


def _onward(
    start: tuple[float, float], side: int, angle: float, length: float
) -> tuple[float, float]:
    return start[0] + side * length * math.cos(angle), start[1] + length * math.sin(angle)


def _hila_cm(anatomy: Anatomy, frame: Frame, hilum_v: float, strength: float) -> Floats:
    border = frame.over_v(anatomy.medial_field)
    away_u = (frame.distance - border - 0.02) / 0.07
    away_v = (frame.v - hilum_v - 0.02) / 0.14
    return 2.2 * strength * np.exp(-np.minimum(away_u * away_u + away_v * away_v, 20.0))


def aeration(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    """Return the share of the usual air: 1 in a healthy lung, less in patches of pneumonia.

    Args:
        anatomy: The patient.
        frame: The patient frame at every pixel.
        rng: Source of randomness.

    Returns:
        Share of the air, 0.2 to 1. (H, W)
    """
    corner = (-anatomy.half_width, 0.0)
    cells = 96
    unit_pixels = cells / (2.0 * anatomy.half_width)
    shape = (math.ceil(anatomy.bottom * unit_pixels), cells)
    loss = _cloud(rng, shape, 1.5) * float(rng.uniform(0.01, 0.05))
    if rng.random() < 0.55:
        haze = np.maximum(_cloud(rng, shape, 10.0) - 0.3, 0.0) + 0.3 * _cloud(rng, shape, 2.5)
        loss += np.maximum(haze, 0.0) * float(rng.uniform(0.05, 0.3))
    if rng.random() < 0.35:
        loss += _patches(rng, shape)
    return 1.0 - frame.project(np.clip(loss, -0.1, 0.8), corner, unit_pixels)


def _cloud(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Floats:
    """Return smooth noise of unit deviation."""
    noise = ndimage.gaussian_filter(rng.normal(0.0, 1.0, shape).astype(np.float32), sigma)
    return np.asarray(noise / max(float(noise.std()), 1e-6), dtype=np.float32)


def _patches(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Render a few consolidated patches with ragged borders."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    ragged = _cloud(rng, shape, 4.0)
    loss = np.zeros(shape, dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        row, column = rng.uniform(0.2, 0.95) * shape[0], rng.uniform(0.05, 0.95) * shape[1]
        radius = rng.uniform(0.06, 0.2) * shape[1]
        away = np.hypot(rows - row, columns - column) / radius + 0.25 * ragged
        depth = float(rng.uniform(0.25, 0.8))
        loss = np.maximum(loss, depth * np.clip(1.6 - 1.4 * away, 0.0, 1.0))
    return loss
