"""How good is a stored model: Dice and IoU per data set, INT8 beside FP32, two kinds of box."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_store.geometry import Box
from model_store.predictor import PredictionRequest, Predictor
from training.dataset import DataRow, load_xray
from training.metrics import dice, iou
from training.model_card import write_manifest_and_card
from training.prompts import tight_box

BOXES = ("own_box", "whole_image")


@dataclass(frozen=True)
class Summary:
    """Spread of one measure over the images of one data set."""

    n: int
    mean: float
    median: float
    percentile_5: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarise at least one value."""
        array = np.asarray(values)
        return cls(
            len(array), float(array.mean()), float(np.median(array)), float(np.percentile(array, 5))
        )


@dataclass(frozen=True)
class ImageScore:
    """Scores of one image by one model with one kind of box."""

    name: str
    source: str
    model: str
    box: str
    dice: float
    iou: float


def score_rows(predictor: Predictor, label: str, rows: Iterable[DataRow]) -> list[ImageScore]:
    """Score a model on X-rays at their own resolution, each in its own convention.

    Args:
        predictor: The model.
        label: How the model is called in the result.
        rows: The X-rays. An empty mask has no box of its own; the whole image stands in.
    """
    scores: list[ImageScore] = []
    for row in rows:
        xray = load_xray(row)
        height, width = xray.image.shape
        whole: Box = (0.0, 0.0, float(width), float(height))
        own = tight_box(xray.mask) or whole
        request = PredictionRequest(xray.image, (own, whole), row.convention)
        prediction = predictor.predict(request)
        for box, answer in zip(BOXES, prediction.masks, strict=True):
            scores.append(
                ImageScore(
                    row.name, row.source, label, box,
                    dice(answer.mask, xray.mask), iou(answer.mask, xray.mask),
                )
            )  # fmt: skip
    return scores


def summarise(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Return ``{source: {box: {model: {measure: summary}}}}``, never pooled over sources."""
    table: dict[str, Any] = {}
    for source in sorted({s.source for s in scores}):
        for box in BOXES:
            for model in dict.fromkeys(s.model for s in scores):
                chosen = [s for s in scores if (s.source, s.box, s.model) == (source, box, model)]
                table.setdefault(source, {}).setdefault(box, {})[model] = {
                    "dice": asdict(Summary.of([s.dice for s in chosen])),
                    "iou": asdict(Summary.of([s.iou for s in chosen])),
                }
    return table


def format_table(table: dict[str, Any]) -> str:
    """Return the summary as text, a line per data set, box and model."""
    head = (
        f"{'data set':<12} {'box':<12} {'model':<6} {'n':>4}   {'Dice mean':>9} {'median':>7} "
        f"{'5th pc':>7}   {'IoU mean':>8} {'median':>7} {'5th pc':>7}"
    )
    lines = [head, "-" * len(head)]
    for source, boxes in table.items():
        for box, models in boxes.items():
            for model, measures in models.items():
                d, i = measures["dice"], measures["iou"]
                lines.append(
                    f"{source:<12} {box:<12} {model:<6} {d['n']:>4}   "
                    f"{d['mean']:>9.4f} {d['median']:>7.4f} {d['percentile_5']:>7.4f}   "
                    f"{i['mean']:>8.4f} {i['median']:>7.4f} {i['percentile_5']:>7.4f}"
                )
    return "\n".join(lines)


def store_metrics(folder: Path, predictor: Predictor, split: str, table: dict[str, Any]) -> None:
    """Write a summary into the manifest of the stored model that it was measured on."""
    manifest = predictor.info.manifest
    metrics = {**manifest.metrics, split: table}
    write_manifest_and_card(folder, manifest.model_copy(update={"metrics": metrics}))
