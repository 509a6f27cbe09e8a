"""The anatomy of the chest phantom: random body measures and the borders derived from them.

Everything is in a patient frame, so that one seed is one patient at any picture size: ``u``
runs to the right of the picture (the patient's left) from the midline of the spine, ``v`` runs
down from the apices of the lungs, and one unit is the height from the apices to the dome of the
right diaphragm (about 20 cm in an adult). Side 0 is the left of the picture (the patient's right).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

TABLE_START = -0.7
TABLE_STOP = 2.3
TABLE_STEP = 0.001
TABLE_AXIS: Floats = np.arange(TABLE_START, TABLE_STOP, TABLE_STEP, dtype=np.float32)


@dataclass(frozen=True)
class Anatomy:
    """Measures and border tables of one patient, in the patient frame.

    Tables hold one value per step of ``TABLE_AXIS``, one row per side.

    Attributes:
        child: Whether the measures are those of a small child.
        half_width: Greatest distance of the lateral lung border from the midline.
        bottom: ``v`` of the lower of the two costophrenic angles.
        lateral: Lateral lung border over ``v``. (2, N)
        medial_whole: Medial border with the lung behind the heart, over ``v``. (2, N)
        medial_field: Medial border of the visible field, over ``v``. (2, N)
        diaphragm: Diaphragm height ``v`` over the distance from the midline. (2, N)
        body: Half width of the trunk outline over ``v``. (2, N)
        rib_spacing: Distance between ribs.
        rib_slope: Slope of the ribs to the side (1 = typical).
        upper_arm: ``(distance, v)`` of the shoulder joint and of the elbow.
        chest_depth_cm: Front to back thickness of the trunk.
        spine_half_width: Half width of the vertebral bodies.
    """

    child: bool
    half_width: float
    bottom: float
    lateral: Floats
    medial_whole: Floats
    medial_field: Floats
    diaphragm: Floats
    body: Floats
    rib_spacing: float
    rib_slope: float
    upper_arm: tuple[tuple[float, float], tuple[float, float]]
    chest_depth_cm: float
    spine_half_width: float


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Sample the measures of one patient.

    Args:
        rng: Source of randomness; the same state gives the same patient.

    Returns:
        The patient.
    """
    child = bool(rng.random() < 0.45)
    half_width = float(rng.uniform(0.61, 0.9) if child else rng.uniform(0.53, 0.82))
    spine_half_width = float(rng.uniform(0.062, 0.085)) * (1.1 if child else 1.0)
    apex = spine_half_width + half_width * float(rng.uniform(0.16, 0.24))
    lateral = _lateral_tables(rng, half_width, apex, child)
    medial_whole = _medial_whole_tables(rng, spine_half_width, apex)
    medial_field = _medial_field_tables(rng, half_width, medial_whole, child)
    diaphragm = _diaphragm_tables(rng, half_width, child)
    return Anatomy(
        child=child,
        half_width=half_width,
        bottom=float(_lowest_points(lateral, diaphragm).max()),
        lateral=lateral,
        medial_whole=medial_whole,
        medial_field=medial_field,
        diaphragm=diaphragm,
        body=_body_tables(rng, half_width, child),
        rib_spacing=float(rng.uniform(0.088, 0.112)),
        rib_slope=float(rng.uniform(0.4, 1.0) if child else rng.uniform(0.7, 1.5)),
        upper_arm=_upper_arm(rng, half_width, child),
        chest_depth_cm=float(rng.uniform(11.0, 15.0) if child else rng.uniform(17.0, 26.0)),
        spine_half_width=spine_half_width,
    )


def _curve(knots: list[float], values: list[float]) -> Floats:
    """Interpolate a border over the table axis without overshoot, constant beyond the ends."""
    inside = np.clip(TABLE_AXIS, knots[0], knots[-1])
    return np.asarray(PchipInterpolator(knots, values)(inside), dtype=np.float32)


def _rounded_curve(knots: list[float], values: list[float]) -> Floats:
    """Interpolate over the root of the axis, which makes the apex round rather than pointed."""
    root_axis = np.sqrt(np.clip(TABLE_AXIS, 0.0, knots[-1]))
    return np.asarray(PchipInterpolator(np.sqrt(knots), values)(root_axis), dtype=np.float32)


def _lateral_tables(
    rng: np.random.Generator, half_width: float, apex: float, child: bool
) -> Floats:
    """Return the borders from apex to wall; shares were fitted to annotated lungs."""
    knots = [0.0, 0.02, 0.06, 0.13, 0.25, 0.4, 0.6, 0.85, 1.1, 1.5]
    shares = np.array([0.0, 0.14, 0.28, 0.46, 0.64, 0.77, 0.87, 0.95, 1.0, 0.985])
    shares = shares ** (rng.uniform(0.95, 1.35) if child else rng.uniform(0.8, 1.15))
    tables = []
    for _ in range(2):
        wobble = rng.normal(0.0, 0.01, len(knots)) * np.sqrt(knots)
        width = half_width * rng.uniform(0.97, 1.03)
        tables.append(_rounded_curve(knots, list(apex + (width - apex) * (shares + wobble))))
    return np.stack(tables)


def _medial_whole_tables(rng: np.random.Generator, spine_half_width: float, apex: float) -> Floats:
    """Return the borders from the apex to the side of the spine and down along it."""
    knots = [0.0, 0.015, 0.05, 0.12, 0.25, 0.6, 1.0, 1.5]
    tables = []
    for _ in range(2):
        near = spine_half_width * rng.uniform(0.95, 1.35)
        shares = np.array([1.0, 0.62, 0.32, 0.11, 0.0, 0.0, 0.0, 0.0])
        outward = np.array([0.0, 0.0, 0.0, 0.0, 0.004, 0.016, 0.026, 0.04])
        wobble = rng.normal(0.0, 0.006, len(knots)) * np.sqrt(knots)
        tables.append(_rounded_curve(knots, list(near + shares * (apex - near) + outward + wobble)))
    return np.stack(tables)


def _medial_field_tables(
    rng: np.random.Generator, half_width: float, medial_whole: Floats, child: bool
) -> Floats:
    """Return the borders of heart and mediastinum, by the cardiothoracic ratio."""
    ratio = rng.uniform(0.42, 0.62) if child else rng.uniform(0.36, 0.6)
    right_share = rng.uniform(0.26, 0.4)
    right_heart = max(2.0 * half_width * ratio * right_share, 0.12)
    left_heart = 2.0 * half_width * ratio * (1.0 - right_share)
    vessels = half_width * (rng.uniform(0.12, 0.17) if child else rng.uniform(0.1, 0.15))
    rotation = rng.normal(0.0, 0.012)
    knob_v, knob_bulge = rng.uniform(0.24, 0.34), rng.uniform(0.01, 0.06) * (0.3 if child else 1.0)
    right_middle = 0.6 * vessels + 0.4 * right_heart
    right = _curve(
        [-0.2, 0.06, 0.22, 0.36, 0.52, 0.72, 0.88, 1.0, 1.15],
        [vessels, vessels, vessels + 0.02, vessels + 0.03, right_middle + 0.02,
         0.97 * right_heart, right_heart, 0.9 * right_heart, 0.8 * right_heart],
    )  # fmt: skip
    apex_v = rng.uniform(0.86, 1.0)
    waist = vessels + 0.03 + 0.15 * max(left_heart - vessels, 0.0)
    left = _curve(
        [-0.2, 0.06, knob_v - 0.09, knob_v, knob_v + 0.09, knob_v + 0.18,
         0.5 * (knob_v + 0.18 + apex_v), apex_v, apex_v + 0.12, 1.4],
        [vessels, vessels, vessels + 0.02, vessels + 0.03 + knob_bulge, vessels + 0.03, waist,
         waist + rng.uniform(0.45, 0.62) * (left_heart - waist), left_heart, 0.96 * left_heart,
         0.9 * left_heart],
    )  # fmt: skip
    return np.maximum(np.stack([right - rotation, left + rotation]), medial_whole)


def _diaphragm_tables(rng: np.random.Generator, half_width: float, child: bool) -> Floats:
    """Return the domes over the distance from the midline: crest, then fall to both angles."""
    tables = []
    left_lower = rng.uniform(0.0, 0.08)
    lateral_fall = rng.uniform(0.05, 0.2) if child else rng.uniform(0.08, 0.28)
    medial_fall = rng.uniform(0.03, 0.13)
    for side in range(2):
        share = np.clip(TABLE_AXIS / half_width, 0.0, 1.05)
        crest = rng.uniform(0.42, 0.56)
        outward = np.clip((share - crest) / (1.0 - crest), 0.0, None)
        inward = np.clip((crest - share) / crest, 0.0, None)
        height = 1.0 + side * left_lower
        fall = lateral_fall * rng.uniform(0.8, 1.2)
        dome = height + fall * outward ** rng.uniform(2.0, 3.2) + medial_fall * inward**2
        tables.append(dome.astype(np.float32))
    return np.stack(tables)


def _lowest_points(lateral: Floats, diaphragm: Floats) -> Floats:
    """Return where the lateral border meets the diaphragm: the costophrenic angle of each side."""
    lowest = []
    for side in range(2):
        column = ((lateral[side] - TABLE_START) / TABLE_STEP).astype(np.intp)
        crossing = np.argmax(diaphragm[side][column] - TABLE_AXIS <= 0.0)
        lowest.append(TABLE_AXIS[crossing])
    return np.asarray(lowest, dtype=np.float32)


def _body_tables(rng: np.random.Generator, half_width: float, child: bool) -> Floats:
    """Return the outline of the trunk: neck, shoulders, flank; the arms are separate."""
    wall = rng.uniform(0.06, 0.16) if child else rng.uniform(0.05, 0.22)
    neck = rng.uniform(0.22, 0.34)
    shoulder = half_width * rng.uniform(1.2, 1.5) + wall
    shoulder_v = rng.uniform(-0.06, 0.12)
    flank = half_width + wall
    waist = flank * rng.uniform(0.9, 1.1)
    tables = []
    for _ in range(2):
        droop = rng.normal(0.0, 0.012)
        tables.append(
            _curve(
                [-0.7, -0.28 + droop, -0.12 + droop, shoulder_v + droop, 0.2 + droop, 0.42, 0.7,
                 1.1, 1.8],
                [neck, neck * 1.05, 0.62 * shoulder, shoulder, shoulder * 0.99, flank * 1.08,
                 flank, flank * 0.99, waist],
            )
        )  # fmt: skip
    return np.stack(tables)


def _upper_arm(
    rng: np.random.Generator, half_width: float, child: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the upper arm: children's arms are held up, adults' hands are on the hips."""
    raised = rng.uniform(0.3, 1.3) if child else rng.uniform(0.0, 0.6)
    angle = 0.25 + 1.4 * float(raised)
    shoulder = (half_width * 1.18 + float(rng.uniform(0.1, 0.16)), float(rng.uniform(0.04, 0.14)))
    return shoulder, (shoulder[0] + math.sin(angle), shoulder[1] + math.cos(angle))


def table_value(table: Floats, coordinate: float) -> float:
    """Read one row of a border table.

    Args:
        table: One side's row. (N,)
        coordinate: Position on the table axis, clipped to its ends.

    Returns:
        The value there.
    """
    return float(np.interp(coordinate, TABLE_AXIS, table))
