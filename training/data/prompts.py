"""Prompt boxes of training and evaluation, and the mask that each selects.

A box selects every lung of which at least half is inside: both lungs for a box around both and for
the whole image, one lung for a box around it, none for a box without lungs. So training covers
every box that a caller may send.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from model_store.geometry import Box
from training.errors import ConfigError
from training.settings import Share, check_settings

HALF = 0.5
"""Least share of a lung inside a box that selects it."""


@dataclass(frozen=True)
class PromptMix:
    """Shares of the kinds of boxes in training, with the sum 1.

    Attributes:
        both: Jittered box around both lungs.
        single: Jittered box around one lung.
        anywhere: A random box, which may hold both lungs, one or none.
        jitter: Largest standard deviation of an edge, as a share of the box's side.
        tight: Share of the boxes around lungs whose edges are exactly the mask's. They show the
            model where this annotator ends the lungs.
    """

    both: Share = 0.45
    single: Share = 0.22
    whole_image: Share = 0.25
    anywhere: Share = 0.08
    jitter: Annotated[float, Interval(ge=0, le=0.5)] = 0.08
    tight: Share = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that are negative or do not add up to 1."""
        check_settings(self, "prompts")
        shares = (self.both, self.single, self.whole_image, self.anywhere)
        if abs(sum(shares) - 1.0) > 1e-6:
            raise ConfigError(
                f"prompts.both, single, whole_image and anywhere are {shares}; they "
                "must add up to 1"
            )


def tight_box(mask: NDArray[np.bool_]) -> Box | None:
    """Return the smallest half-open box around a mask (H, W), or None when it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def jitter_box(box: Box, deviation: float, bounds: Box, rng: np.random.Generator) -> Box:
    """Move each edge by a normally distributed share of the box's side, within ``bounds``.

    Args:
        box: The box, in pixels.
        deviation: Standard deviation of the move, as a share of the side.
        bounds: Region that the result may not leave.
        rng: Source of randomness.

    Returns:
        A box of at least a pixel a side; the original if the moved one would collapse.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    sides = np.array([width, height, width, height])
    moved = np.array(box) + rng.normal(0.0, deviation, 4) * sides
    low, high = np.array(bounds[:2] * 2), np.array(bounds[2:] * 2)
    x0, y0, x1, y1 = np.clip(moved, low, high).tolist()
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else box


def lungs_meant(box: Box, lungs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which lungs a box selects.

    Args:
        box: In pixels of ``lungs``.
        lungs: Left and right lung, (2, H, W); an empty one is never selected.

    Returns:
        bool (2,).
    """
    x0, y0, x1, y1 = (max(round(value), 0) for value in box)
    return np.array([_is_meant(lung, lung[y0:y1, x0:x1]) for lung in lungs])


def _is_meant(lung: NDArray[np.bool_], inside: NDArray[np.bool_]) -> bool:
    whole = int(np.count_nonzero(lung))
    return whole > 0 and int(np.count_nonzero(inside)) >= HALF * whole


def draw_prompt(
    lungs: NDArray[np.bool_], bounds: Box, mix: PromptMix, rng: np.random.Generator
) -> tuple[Box, NDArray[np.bool_]]:
    """Sample one training prompt.

    Args:
        lungs: Left and right lung, (2, H, W).
        bounds: The image inside the input, in pixels.
        mix: Shares of the kinds of boxes.
        rng: Source of randomness.

    Returns:
        The box, and which of the two lungs it selects, bool (2,).
    """
    kind = rng.choice(4, p=[mix.both, mix.single, mix.whole_image, mix.anywhere])
    box: Box | None = bounds
    if kind == 0:
        box = tight_box(np.asarray(lungs.any(axis=0)))
    elif kind == 1:
        present = np.flatnonzero(lungs.any(axis=(1, 2)))
        box = tight_box(lungs[rng.choice(present)]) if len(present) else None
    elif kind == 3:
        box = _box_anywhere(bounds, rng)
    if box is None:  # the lungs were moved out of the picture: use the whole image
        box = bounds
    elif kind < 2 and rng.random() >= mix.tight:
        box = jitter_box(box, rng.uniform(0.0, mix.jitter), bounds, rng)
    return box, lungs_meant(box, lungs)


def _box_anywhere(bounds: Box, rng: np.random.Generator) -> Box:
    x0, y0, x1, y1 = bounds
    width, height = rng.uniform(0.15, 0.7, 2) * (x1 - x0, y1 - y0)
    left, top = rng.uniform(x0, x1 - width), rng.uniform(y0, y1 - height)
    return (float(left), float(top), float(left + width), float(top + height))
