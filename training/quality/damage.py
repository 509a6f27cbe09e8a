"""Damage of an X-ray without moving it: less detail, less contrast, or a covered part.

A damaged X-ray keeps its labels, such as upright, mirrored or inverted, and the quality head must
still find them. The strength of each change varies from hardly visible to hardly readable.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
Shares = NDArray[np.float32]


def damaged(image: Grey, mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Grey, bool]:
    """Return a damaged X-ray.

    Args:
        image: Grey values, (H, W).
        mask: Both lungs, (H, W).
        rng: Source of randomness.

    Returns:
        The X-ray, and whether too much is hidden to judge its edges and its heart.
    """
    kind = int(rng.integers(7))
    values = image.astype(np.float32) / np.float32(255)
    if kind == 0:
        return _levels(_blurred(values, rng)), False
    if kind == 1:
        return _levels(values + _noise(values, float(rng.uniform(0.05, 0.55)), rng)), False
    if kind == 2:
        return _levels(_specked(values, rng)), False
    if kind == 3:
        return _levels(_faint(values, rng)), False
    if kind == 4:
        return _levels(_bar(values, rng)), False
    if kind == 5:
        return _levels(_half_hidden(values, rng)), True
    return _levels(_one_lung_white(values, mask, rng)), True


def _levels(values: Shares) -> Grey:
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), np.uint8)


def _noise(values: Shares, deviation: float, rng: np.random.Generator) -> Shares:
    return rng.normal(0, deviation, values.shape).astype(np.float32)


def _blurred(values: Shares, rng: np.random.Generator) -> Shares:
    deviation = float(np.exp(rng.uniform(np.log(0.005), np.log(0.06)))) * max(values.shape)
    return np.asarray(cv2.GaussianBlur(values, (0, 0), deviation), np.float32)


def _specked(values: Shares, rng: np.random.Generator) -> Shares:
    """Replace up to half of the pixels by black or white."""
    share = float(rng.uniform(0.05, 0.5))
    thrown = rng.random(values.shape)
    specked = np.where(thrown < share / 2, 0.0, np.where(thrown > 1 - share / 2, 1.0, values))
    return np.asarray(specked, np.float32)


def _faint(values: Shares, rng: np.random.Generator) -> Shares:
    """Keep a part of the contrast, and add noise of its size."""
    kept = np.float32(rng.uniform(0.08, 0.4))
    faint = np.float32(0.5) + (values - np.float32(0.5)) * kept
    return faint + _noise(values, float(rng.uniform(0, 0.1)), rng)


def _bar(values: Shares, rng: np.random.Generator) -> Shares:
    """Draw a bar across the picture, like a label or a shield."""
    return _covered(values, float(rng.uniform(0.05, 0.25)), float(rng.uniform(0, 0.75)), rng)


def _half_hidden(values: Shares, rng: np.random.Generator) -> Shares:
    """Cover the picture beyond a line."""
    share = float(rng.uniform(0.3, 0.6))
    return _covered(values, share, 1 - share if rng.random() < 0.5 else 0.0, rng)


def _covered(values: Shares, share: float, start: float, rng: np.random.Generator) -> Shares:
    covered = values.copy()
    along = covered if rng.random() < 0.5 else covered.T  # a view: rows or columns
    first = int(start * len(along))
    along[first : first + max(int(share * len(along)), 1)] = np.float32(rng.choice([0.0, 0.1, 1.0]))
    return covered


def _one_lung_white(values: Shares, mask: NDArray[np.bool_], rng: np.random.Generator) -> Shares:
    """Whiten the lung in one half of the picture softly, like an effusion."""
    height, width = values.shape
    half = np.zeros((height, width), bool)
    half[:, : width // 2] = True
    lung = mask & (half if rng.random() < 0.5 else ~half)
    hidden = cv2.GaussianBlur(lung.astype(np.float32), (0, 0), 0.02 * width)
    hidden = hidden * np.float32(rng.uniform(0.7, 1.0))
    level = np.float32(np.percentile(values, rng.uniform(80, 95)))
    return np.asarray(values * (1 - hidden) + level * hidden, np.float32)
