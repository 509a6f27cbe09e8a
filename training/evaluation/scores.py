"""All measures of single images: a stored model's masks against the annotated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.geometry import Box
from model_store.predictor import PredictionRequest, Predictor
from training.data.dataset import DataRow, LabelledXray, load_xray
from training.data.prompts import tight_box
from training.evaluation.metrics import dice, iou
from training.evaluation.surface import surface_scores
from training.evaluation.watching import Watch, unwatched

BOXES = ("own_box", "whole_image")
"""The tight box of both lungs, and the whole image."""

MEASURES = ("dice", "iou", "nsd", "hd95", "assd")
"""Measures in the order of tables; the last three are None if outlines were not measured."""


@dataclass(frozen=True)
class ImageScore:
    """Scores of one image by one model with one kind of box.

    Attributes:
        source: Its data set.
        model: Name of the model in tables.
        box: One of `BOXES`.
        dice: 0..1.
        iou: 0..1.
        nsd: Normalised surface Dice, 0..1, or None if outlines were not measured.
        hd95: Robust Hausdorff distance in ``unit``, or None.
        assd: Average symmetric surface distance in ``unit``, or None.
        unit: Unit of the distances, or None.
    """

    name: str
    source: str
    model: str
    box: str
    dice: float
    iou: float
    nsd: float | None = None
    hd95: float | None = None
    assd: float | None = None
    unit: str | None = None


def prompt_boxes(xray: LabelledXray) -> tuple[Box, Box]:
    """Return the boxes of `BOXES`; the whole image replaces the box of an empty mask."""
    height, width = xray.image.shape
    whole: Box = (0.0, 0.0, float(width), float(height))
    return tight_box(xray.mask) or whole, whole


def score_mask(
    predicted: NDArray[np.bool_],
    xray: LabelledXray,
    model: str,
    box: str,
    *,
    spacing_mm: float | None = None,
    surface: bool = False,
) -> ImageScore:
    """Score one mask against the X-ray's own mask.

    Args:
        predicted: bool (H, W).
        xray: The X-ray with its true mask.
        model: Name of the model in the result.
        box: Name of the box in the result.
        spacing_mm: Side of a pixel in millimetres, if known.
        surface: Whether to measure outlines as well.
    """
    overlap = dice(predicted, xray.mask), iou(predicted, xray.mask)
    if not surface:
        return ImageScore(xray.name, xray.source, model, box, *overlap)
    found = surface_scores(predicted, xray.mask, spacing_mm)
    return ImageScore(
        xray.name, xray.source, model, box, *overlap,
        found.nsd, found.hd95, found.assd, found.unit,
    )  # fmt: skip


def score_rows(
    predictor: Predictor,
    label: str,
    rows: Sequence[DataRow],
    *,
    surface: bool = False,
    watch: Watch = unwatched,
) -> list[ImageScore]:
    """Score a model on X-rays at their own resolution, each in its own convention.

    Args:
        predictor: The model.
        label: Name of the model in the result.
        rows: The X-rays.
        surface: Whether to measure outlines as well.
        watch: Shows the progress.
    """
    scores: list[ImageScore] = []
    spacings = pixel_spacings(rows)
    for row in watch(rows, label):
        xray = load_xray(row)
        request = PredictionRequest(xray.image, prompt_boxes(xray), row.convention)
        answers = predictor.predict(request).masks
        scores += [
            score_mask(
                answer.mask, xray, label, box, spacing_mm=spacings[row.name], surface=surface
            )
            for box, answer in zip(BOXES, answers, strict=True)
        ]
    return scores


def values_of(scores: Sequence[ImageScore], measure: str) -> list[float] | None:
    """Return one measure of all scores; None if any lacks it."""
    values = [getattr(score, measure) for score in scores]
    return None if any(value is None for value in values) else values


def pixel_spacings(rows: Sequence[DataRow]) -> dict[str, float | None]:
    """Return the spacing in mm for measuring each X-ray, by name.

    A data set is measured in millimetres only if the spacing of all its X-rays is known, because a
    mean over millimetres and pixels is meaningless.
    """
    unknown = {row.source for row in rows if row.spacing_mm is None}
    return {row.name: None if row.source in unknown else row.spacing_mm for row in rows}
