"""Dice against the jitter of the box's edges."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from model_store.geometry import Box
from model_store.predictor import PredictionRequest, Predictor
from training.data.dataset import DataRow, load_xray
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes
from training.evaluation.statistics import Summary
from training.evaluation.watching import Watch, unwatched

JITTERS = (0.0, 0.05, 0.10, 0.20)
"""Largest moves of an edge, as shares of the box's side."""

DRAWS = 3
"""Number of boxes per X-ray and jitter."""

JitterTable = dict[str, dict[str, Any]]
"""``{source: {jitter or "whole_image": summary of Dice}}``."""


def moved_box(box: Box, share: float, bounds: Box, rng: np.random.Generator) -> Box:
    """Move each edge in or out by a uniform random share of its side, up to ``share``.

    Unlike the normal distribution of training, no move is larger than stated.

    Args:
        box: In pixels.
        share: Largest share, below 0.5, so that the box cannot collapse.
        bounds: Region that the result may not leave.
        rng: Source of randomness.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    moves = rng.uniform(-share, share, 4) * (width, height, width, height)
    low, high = np.array(bounds[:2] * 2), np.array(bounds[2:] * 2)
    x0, y0, x1, y1 = np.clip(np.array(box) + moves, low, high).tolist()
    return (x0, y0, x1, y1)


def score_jitter(
    predictor: Predictor, rows: Sequence[DataRow], seed: int = 0, watch: Watch = unwatched
) -> JitterTable:
    """Return Dice against box jitter, and for the whole image as the box, per data set.

    The reference is always both lungs, even if a moved edge cuts off most of one. The boxes of an
    X-ray depend only on its name and the seed.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for row in watch(rows, "box jitter"):
        xray = load_xray(row)
        own, whole = prompt_boxes(xray)
        rng = np.random.default_rng([seed, zlib.crc32(row.name.encode())])
        labelled = [(f"{JITTERS[0]:.0%}", own), ("whole_image", whole)]
        for share in JITTERS[1:]:
            labelled += [(f"{share:.0%}", moved_box(own, share, whole, rng)) for _ in range(DRAWS)]
        request = PredictionRequest(xray.image, tuple(box for _, box in labelled), row.convention)
        answers = predictor.predict(request).masks
        for (label, _), answer in zip(labelled, answers, strict=True):
            source = values.setdefault(row.source, {})
            source.setdefault(label, []).append(dice(answer.mask, xray.mask))
    return {
        source: {label: asdict(Summary.of(values[source][label])) for label in jitter_labels()}
        for source in sorted(values)
    }


def jitter_labels() -> list[str]:
    """Return the columns of the table: jitters from small to large, then the whole image."""
    return [f"{share:.0%}" for share in JITTERS] + ["whole_image"]
