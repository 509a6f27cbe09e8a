"""The position of the chest phantom in the picture: the patient frame at every pixel, and back.

Pixels are mapped to the patient frame (see `training.phantom.anatomy`), where every organ is a
closed formula of its borders. So a patient looks the same at any picture size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.phantom.anatomy import TABLE_AXIS, TABLE_START, TABLE_STEP, Anatomy, Bools, Floats


@dataclass(frozen=True)
class View:
    """The position of the patient in the picture, in shares, so that any size gives the same view.

    Attributes:
        fill: Largest share of the picture's width and of its height that the lungs take.
        shift: Share of the free room to move by, -1 to 1 across and down.
        tilt_rad: Rotation in the picture plane.
        bend: Sideways bend of the spine, in units of the patient frame.
    """

    fill: tuple[float, float]
    shift: tuple[float, float]
    tilt_rad: float
    bend: float


@dataclass(frozen=True)
class Frame:
    """The patient frame at every pixel.

    Attributes:
        u: Distance from the midline, positive to the right of the picture. (H, W)
        v: Distance below the apices. (H, W)
        distance: ``abs(u)``. (H, W)
        pixels_per_unit: Scale of the picture.
        row: Index into the tables over ``v``, side included. (H, W)
        column: Index into the tables over the distance, side included. (H, W)
        pixel_to_unit: ``(a, b, c, d, e, f)``: ``u = a x + b y + c``, ``v = d x + e y + f`` for
            pixel centres x, y counted from 0.5 (without the bend of the spine).
    """

    u: Floats
    v: Floats
    distance: Floats
    pixels_per_unit: float
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    pixel_to_unit: tuple[float, float, float, float, float, float]

    def over_v(self, tables: Floats) -> Floats:
        """Look up per-side tables over ``v``. (2, N) -> (H, W)."""
        return tables.ravel().take(self.row)

    def over_distance(self, tables: Floats) -> Floats:
        """Look up per-side tables over the distance from the midline. (2, N) -> (H, W)."""
        return tables.ravel().take(self.column)

    def project(self, canvas: Floats, corner: tuple[float, float], unit_pixels: float) -> Floats:
        """Project a canvas of the patient frame into the picture.

        Args:
            canvas: Values over the patient frame. (h, w)
            corner: ``(u, v)`` of the canvas's top left corner.
            unit_pixels: Canvas pixels per unit.

        Returns:
            The values at every pixel, 0 beyond the canvas. (H, W)
        """
        a, b, c, d, e, f = self.pixel_to_unit
        across, down = (c - corner[0]) * unit_pixels, (f - corner[1]) * unit_pixels
        matrix = (a * unit_pixels, b * unit_pixels, across, d * unit_pixels, e * unit_pixels, down)
        height, width = self.u.shape
        picture = Image.fromarray(canvas.astype(np.float32)).transform(
            (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        return np.asarray(picture, dtype=np.float32)


def sample_view(rng: np.random.Generator) -> View:
    """Sample a view.

    Args:
        rng: Source of randomness.

    Returns:
        The view.
    """
    return View(
        fill=(float(rng.uniform(0.7, 0.94)), float(rng.uniform(0.6, 0.9))),
        shift=(float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.75, 0.35))),
        tilt_rad=float(rng.normal(0.0, 0.035)),
        bend=float(rng.normal(0.0, 0.012)),
    )


def frame_of(anatomy: Anatomy, view: View, size: tuple[int, int]) -> Frame:
    """Map every pixel centre to the patient frame.

    Args:
        anatomy: The patient.
        view: The position of the patient in the picture.
        size: Height and width in pixels.

    Returns:
        The frame.
    """
    height, width = size
    lung_width, lung_height = 2.0 * anatomy.half_width, anatomy.bottom
    scale = min(view.fill[0] * width / lung_width, view.fill[1] * height / lung_height)
    room_x = 0.5 * max(width - scale * lung_width, 0.0)
    room_y = 0.5 * max(height - scale * lung_height, 0.0)
    centre_x = 0.5 * width + view.shift[0] * room_x
    centre_y = 0.5 * height + view.shift[1] * room_y
    cosine, sine = math.cos(view.tilt_rad) / scale, math.sin(view.tilt_rad) / scale
    matrix = (
        *(cosine, sine, -cosine * centre_x - sine * centre_y),
        *(-sine, cosine, sine * centre_x - cosine * centre_y + 0.5 * lung_height),
    )
    x = (np.arange(width, dtype=np.float32) + 0.5)[None, :]
    y = (np.arange(height, dtype=np.float32) + 0.5)[:, None]
    v = matrix[3] * x + matrix[4] * y + matrix[5]
    u = matrix[0] * x + matrix[1] * y + matrix[2] - view.bend * np.sin(3.0 * v)
    distance = np.abs(u)
    other_side = np.int32(len(TABLE_AXIS)) * (u >= 0.0)
    return Frame(
        u=u,
        v=v,
        distance=distance,
        pixels_per_unit=scale,
        row=_table_index(v) + other_side,
        column=_table_index(distance) + other_side,
        pixel_to_unit=matrix,
    )


def _table_index(values: Floats) -> NDArray[np.int32]:
    scaled = (values - TABLE_START) * (1.0 / TABLE_STEP)
    indices: NDArray[np.int32] = np.clip(scaled, 0, len(TABLE_AXIS) - 1).astype(np.int32)
    return indices


def lung_masks(anatomy: Anatomy, frame: Frame) -> tuple[Bools, Bools]:
    """Return the true masks of both conventions.

    Args:
        anatomy: The patient.
        frame: The patient frame at every pixel.

    Returns:
        ``lung_field`` and ``whole_lung``, (H, W) each.
    """
    whole = (
        (frame.v > 0.0)
        & (frame.distance > frame.over_v(anatomy.medial_whole))
        & (frame.distance < frame.over_v(anatomy.lateral))
        & (frame.v < frame.over_distance(anatomy.diaphragm))
    )
    return whole & (frame.distance > frame.over_v(anatomy.medial_field)), whole
