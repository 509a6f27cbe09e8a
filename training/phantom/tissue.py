"""Soft tissue of the chest phantom: water-equivalent centimetres along each ray.

It has trunk, neck, jaw and arms, minus the air of lungs, windpipe, stomach and bowel.
"""

from __future__ import annotations

import numpy as np

from training.phantom.anatomy import Anatomy, Floats
from training.phantom.frame import Frame
from training.phantom.lung_texture import aeration, vessels_cm

AIR_SHARE = 0.74
"""Share of lung volume that is air at full breath; the density of lung is about 0.26 g/cm3."""


def dome(share: Floats, power: int = 2) -> Floats:
    """Return the profile of a rounded body: 1 in the middle, 0 from ``abs(share) = 1`` on.

    Args:
        share: Distance from the middle over the half width. (H, W)
        power: Even power; higher = flatter in the middle, steeper at the edge.

    Returns:
        The height over the share. (H, W)
    """
    square = share * share
    raised = square
    for _ in range(power // 2 - 1):
        raised = raised * square
    return np.sqrt(np.maximum(1.0 - raised, 0.0))


def capsule(frame: Frame, start: tuple[float, float], stop: tuple[float, float]) -> Floats:
    """Return the distance from a segment that is mirrored on both sides of the midline.

    Args:
        frame: The patient frame at every pixel.
        start: ``(distance, v)`` of one end.
        stop: ``(distance, v)`` of the other end.

    Returns:
        The distance in units of the patient frame. (H, W)
    """
    (u0, v0), (u1, v1) = start, stop
    du, dv = u1 - u0, v1 - v0
    length_squared = du * du + dv * dv
    along = frame.distance * (du / length_squared) + frame.v * (dv / length_squared)
    along = np.clip(along - (u0 * du + v0 * dv) / length_squared, 0.0, 1.0)
    across_u = frame.distance - (u0 + du * along)
    across_v = frame.v - (v0 + dv * along)
    return np.sqrt(across_u * across_u + across_v * across_v)


def soft_tissue_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    """Return the water-equivalent centimetres of soft tissue along each ray.

    Args:
        anatomy: The patient.
        frame: The patient frame at every pixel.
        rng: Source of randomness of the details.

    Returns:
        Thickness. (H, W)
    """
    soft = _trunk_cm(anatomy, frame, rng)
    soft -= _lung_air_cm(anatomy, frame, rng)
    soft -= _windpipe_cm(frame, rng)
    if rng.random() < 0.6:
        soft -= _gastric_bubble_cm(anatomy, frame, rng)
    if rng.random() < 0.4:
        soft -= _bowel_gas_cm(anatomy, frame, rng)
    if not anatomy.child and rng.random() < 0.4:
        soft += _breasts_cm(anatomy, frame, rng)
    return np.maximum(soft, 0.0)


def _trunk_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    depth = anatomy.chest_depth_cm
    trunk_depth = depth * (0.5 + 0.5 * np.clip((frame.v + 0.35) / 0.6, 0.0, 1.0))
    trunk = trunk_depth * dome(frame.distance / frame.over_v(anatomy.body), 4)
    arms = 0.4 * depth * dome(capsule(frame, *anatomy.upper_arm) / 0.16)
    body = np.maximum(trunk, arms)
    # Fat, muscle and folds of the skin are uneven at the scale of a few centimetres.
    rough = rng.normal(0.0, 1.0, (9, 9)).astype(np.float32)
    body *= 1.0 + rng.uniform(0.01, 0.04) * frame.project(rough, (-1.6, -0.8), 2.6)
    # The muscles from the breast bone to the arm: an edge that crosses the upper lung's side.
    fold = capsule(frame, (0.75 * anatomy.half_width, 0.3), anatomy.upper_arm[0])
    body += rng.uniform(0.0, 0.12) * depth * dome(fold / 0.2) * (frame.v > -0.1)
    if rng.random() < (0.5 if anatomy.child else 0.15):
        chin_v = rng.uniform(-0.6, -0.22)
        jaw_u, jaw_v = frame.u / 0.33, (frame.v - chin_v + 0.4) / 0.4
        body = np.maximum(body, 0.9 * depth * dome(np.sqrt(jaw_u * jaw_u + jaw_v * jaw_v)))
    trunk_cm: Floats = body
    return trunk_cm


def _lung_air_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    """Return the tissue that lungs displace, without heart, mediastinum and vessels."""
    lateral = frame.over_v(anatomy.lateral)
    medial = frame.over_v(anatomy.medial_whole)
    floor = frame.over_distance(anatomy.diaphragm)
    across = 2.0 * (frame.distance - medial) / np.maximum(lateral - medial, 1e-3) - 1.0
    # The chest is round: shallow at the apex and at the wall, and the base rests on a dome.
    upper = np.clip(frame.v / 0.35, 0.0, 1.0)
    lung = dome(across, 4) * (0.35 + 0.65 * np.sqrt(upper))
    lung *= np.sqrt(np.clip((floor - frame.v) / 0.06, 0.0, 1.0)) * (frame.v > 0.0)
    lung *= 0.7 * anatomy.chest_depth_cm
    border = frame.over_v(anatomy.medial_field)
    # Behind and before the heart there is lung, so its shadow is paler than the abdomen's.
    thick = rng.uniform(0.1, 0.35) * np.clip((frame.v - 0.3) / 0.35, 0.0, 1.0)
    heart_depth = rng.uniform(0.28, 0.42) + thick
    heart = anatomy.chest_depth_cm * heart_depth * dome(frame.distance / border, 4)
    inside = np.maximum(lung - heart, 0.0)
    air = AIR_SHARE * rng.uniform(0.8, 1.05) * inside * aeration(anatomy, frame, rng)
    blood = np.minimum(vessels_cm(anatomy, frame, rng), 0.5 * inside)
    air_cm: Floats = np.maximum(air - blood, 0.0)
    return air_cm


def _windpipe_cm(frame: Frame, rng: np.random.Generator) -> Floats:
    half, deviation = rng.uniform(0.03, 0.045), rng.normal(-0.008, 0.01)
    tube = 2.3 * dome((frame.u - deviation) / half) * np.clip((0.36 - frame.v) / 0.05, 0.0, 1.0)
    bronchi = capsule(frame, (0.0, 0.33), (0.2, 0.46))
    windpipe: Floats = np.maximum(tube, 0.6 * dome(bronchi / (0.8 * half)))
    return windpipe


def _gastric_bubble_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    centre_u = anatomy.half_width * rng.uniform(0.35, 0.62)
    radius_u, radius_v = rng.uniform(0.08, 0.24), rng.uniform(0.04, 0.14)
    floor = frame.over_distance(anatomy.diaphragm)
    centre_v = float(anatomy.diaphragm[1].min()) + 0.03 + radius_v
    away_u, away_v = (frame.u - centre_u) / radius_u, (frame.v - centre_v) / radius_v
    bubble = rng.uniform(1.0, 6.0) * dome(np.sqrt(away_u * away_u + away_v * away_v))
    if rng.random() < 0.4:  # Upright: air above, a level of fluid below.
        bubble *= frame.v < centre_v + rng.uniform(0.0, 0.6) * radius_v
    gas_cm: Floats = bubble * np.clip((frame.v - floor) / 0.015, 0.0, 1.0)
    return gas_cm


def _bowel_gas_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    coarse = rng.normal(0.0, 1.0, (8, 16)).astype(np.float32)
    gas = np.maximum(frame.project(coarse, (-1.2, anatomy.bottom - 0.1), 6.6) - 0.5, 0.0)
    below = np.clip((frame.v - anatomy.bottom - 0.02) / 0.1, 0.0, 1.0)
    gas_cm: Floats = rng.uniform(1.0, 5.0) * gas * below * (frame.distance < anatomy.half_width)
    return gas_cm


def _breasts_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    centre_u = anatomy.half_width * rng.uniform(0.5, 0.8)
    centre_v, radius = rng.uniform(0.7, 0.95), rng.uniform(0.25, 0.4)
    away_u, away_v = frame.distance - centre_u, (frame.v - centre_v) * 0.9
    away = np.sqrt(away_u * away_u + away_v * away_v) / radius
    below = np.clip((frame.v - centre_v) / radius + 0.7, 0.0, 1.0)
    breasts: Floats = rng.uniform(0.8, 3.0) * dome(away) * below
    return breasts
