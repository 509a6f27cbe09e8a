"""Bone of the chest phantom: centimetres along each ray.

Ribs, clavicles, spine, shoulder blades and upper arms, each subtle over the lungs as on an X-ray
taken at high voltage.
"""

from __future__ import annotations

import math

import numpy as np

from training.phantom.anatomy import Anatomy, Floats
from training.phantom.frame import Frame
from training.phantom.tissue import capsule, dome


def bone_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    """Return centimetres of bone along each ray.

    Args:
        anatomy: The patient.
        frame: The patient frame at every pixel.
        rng: Source of randomness of the details.

    Returns:
        Thickness. (H, W)
    """
    bone: Floats = _ribs_cm(anatomy, frame, rng)
    bone += _clavicles_cm(anatomy, frame, rng)
    bone += _spine_cm(anatomy, frame, rng)
    bone += _shoulders_cm(anatomy, frame, rng)
    # Bones of children and of the old have less mineral.
    mineral = rng.uniform(0.5, 1.0) if anatomy.child else rng.uniform(0.6, 1.3)
    return mineral * bone


def _rib_section(phase: Floats, half_share: float) -> Floats:
    """Render a rib across its arc: a hollow tube, its lower edge a thin plate (costal groove)."""
    share = (phase - np.rint(phase)) / half_share
    size = np.abs(share)
    body = np.clip((1.0 - size) * 5.0, 0.0, 1.0)
    section: Floats = body * (0.5 + 0.75 * np.minimum(size, 1.0) ** 4) * (1.0 - 0.25 * share)
    return section


def _ribs_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    """Return all ribs at once: their arcs are alike, so one phase counts them from the top."""
    cage = frame.over_v(anatomy.lateral) + 0.02
    share = frame.distance / cage
    inside = share < 1.0
    spacing, slope = anatomy.rib_spacing, anatomy.rib_slope
    start = rng.uniform(-0.02, 0.05)
    # No two ribs are quite parallel, and the sides differ.
    uneven = rng.uniform(0.0, 0.012) * np.sin(5.0 * frame.v + 2.0 * np.sign(frame.u))
    drop = slope * share * (0.34 * share - 0.1)
    posterior = (frame.v + uneven - start - drop) / spacing
    shown = inside & (posterior > -0.5) & (posterior < rng.integers(9, 12) + 0.5) & (share > 0.1)
    # Where the rib turns forward at the wall, the ray passes along it.
    turn = 1.0 / np.sqrt(np.maximum(1.0 - share * share, 0.15))
    thin = 0.45 + 0.55 * np.clip((share - 0.1) * 1.5, 0.0, 1.0)
    strength = rng.uniform(0.3, 0.55)
    ribs = strength * _rib_section(posterior, rng.uniform(0.22, 0.3)) * turn * thin * shown
    rise = 0.24 * slope + rng.uniform(0.26, 0.42) * (1.0 - share) * (2.0 - share)
    front = (frame.v + uneven - start - rise) / (1.25 * spacing)
    shown = inside & (front > -0.5) & (front < 5.5)
    fade = np.clip((share - rng.uniform(0.35, 0.6)) / 0.2, 0.0, 1.0)
    ribs += rng.uniform(0.1, 0.4) * _rib_section(front, 0.32) * fade * shown
    below = np.clip((1.25 * anatomy.bottom - frame.v) / 0.2, 0.0, 1.0)
    shown_ribs: Floats = ribs * below
    return shown_ribs


def _clavicles_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    inner_v = rng.uniform(0.06, 0.2)
    rise = rng.uniform(0.12, 0.3)
    skew = rng.normal(0.0, 0.02)
    share = frame.distance / (anatomy.upper_arm[0][0] - 0.02)
    middle = inner_v - rise * share + 0.03 * np.sin(2.0 * math.pi * share)
    middle += np.where(frame.u > 0.0, np.float32(skew), np.float32(-skew))
    # Broad at the breast bone and at the shoulder, slender between.
    half = 0.022 + 0.06 * (share - 0.55) ** 2
    shown = np.clip((share - 0.09) / 0.015, 0.0, 1.0) * np.clip((1.0 - share) / 0.03, 0.0, 1.0)
    section = np.abs(frame.v - middle) / half
    clavicles: Floats = (
        0.9 * np.clip((1.0 - section) * 2.5, 0.0, 1.0) * (0.65 + 0.5 * section) * shown
    )
    return clavicles


def _spine_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    half = anatomy.spine_half_width * (0.8 + 0.2 * np.clip(frame.v * 2.0, 0.0, 1.0))
    phase = frame.v / (0.1 + 0.025 * np.clip(frame.v, -0.5, 1.5)) + rng.uniform(0.0, 1.0)
    within = np.abs(phase - np.rint(phase))
    disc = np.clip((0.44 - within) / 0.06, 0.0, 1.0)
    across = frame.u / half
    body = dome(across, 4) * (0.6 + 0.4 * disc)
    away_u, away_v = (np.abs(across) - 0.62) / 0.25, within / 0.18
    pedicle = dome(np.sqrt(away_u * away_u + away_v * away_v))
    away_u, away_v = across / 0.16, (within - 0.22) / 0.2
    process = dome(np.sqrt(away_u * away_u + away_v * away_v))
    wings = dome((frame.distance - half) / (0.6 * half)) * np.clip((0.2 - within) / 0.1, 0.0, 1.0)
    spine: Floats = rng.uniform(0.6, 1.6) * (body + 0.5 * pedicle + 0.4 * process + 0.2 * wings)
    return spine


def _shoulders_cm(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Floats:
    """Return shoulder blade (a thin plate with thick borders), head and shaft of the upper arm."""
    shoulder, elbow = anatomy.upper_arm
    inner = anatomy.half_width * rng.uniform(0.72, 1.08)
    corner = (inner + 0.04, rng.uniform(0.4, 0.6))
    socket = (shoulder[0] - 0.1, shoulder[1] + 0.02)
    upper = (inner, rng.uniform(0.0, 0.08))
    side, medial = capsule(frame, socket, corner), capsule(frame, upper, corner)
    spine = capsule(frame, (inner + 0.02, 0.1), (shoulder[0] - 0.02, shoulder[1] - 0.09))
    plate = np.clip((0.09 - np.minimum(side, medial)) / 0.05, 0.0, 1.0)
    blade = 0.2 * plate + 0.6 * dome(side / 0.022) + 0.25 * dome(medial / 0.012)
    blade += 0.45 * dome(spine / 0.025)
    away_u, away_v = frame.distance - shoulder[0], frame.v - shoulder[1]
    head = 1.3 * dome(np.sqrt(away_u * away_u + away_v * away_v) / 0.1)
    shaft = capsule(frame, shoulder, elbow) / 0.045
    tube = np.clip((1.0 - shaft) * 4.0, 0.0, 1.0) * (0.6 + 0.7 * np.minimum(shaft, 1.0) ** 2)
    shoulders: Floats = blade + np.maximum(head, tube)
    return shoulders
