"""Example overlays: the best, the median and the worst X-ray of each data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from model_store.predictor import PredictionRequest, Predictor
from training.data.dataset import DataRow, LabelledXray, load_xray
from training.evaluation.evaluation import Evaluation
from training.evaluation.scores import ImageScore, prompt_boxes
from training.report.figures import jpeg_address

_SIDE_PX = 440
_TRUE, _PREDICTED = (230, 159, 0), (86, 180, 233)  # orange and sky blue of Okabe and Ito


@dataclass(frozen=True)
class Example:
    """One overlay.

    Attributes:
        rank: ``best``, ``median`` or ``worst``.
        name: The X-ray.
        dice: Its Dice with its own box.
        image: The picture, as a ``data:`` address.
    """

    rank: str
    name: str
    dice: float
    image: str


def choose_examples(scores: Sequence[ImageScore]) -> list[tuple[str, ImageScore]]:
    """Return the best, the median and the worst score, or fewer with fewer X-rays."""
    ordered = sorted(scores, key=lambda s: (s.dice, s.name))
    places = {"best": len(ordered) - 1, "median": (len(ordered) - 1) // 2, "worst": 0}
    chosen: dict[int, str] = {}
    for rank, place in places.items():
        chosen.setdefault(place, rank)
    return [(rank, ordered[place]) for place, rank in chosen.items()]


def draw_examples(
    predictor: Predictor, rows: Sequence[DataRow], found: Evaluation
) -> dict[str, list[Example]]:
    """Draw the examples of every data set."""
    by_name = {(row.source, row.name): row for row in rows}
    own = [s for s in found.scores if s.model == found.label and s.box == "own_box"]
    examples: dict[str, list[Example]] = {}
    for source in found.table:
        for rank, score in choose_examples([s for s in own if s.source == source]):
            xray = load_xray(by_name[source, score.name])
            request = PredictionRequest(xray.image, (prompt_boxes(xray)[0],), xray.convention)
            mask = predictor.predict(request).masks[0].mask
            picture = jpeg_address(overlay(xray, mask))
            examples.setdefault(source, []).append(Example(rank, xray.name, score.dice, picture))
    return examples


def overlay(xray: LabelledXray, predicted: NDArray[np.bool_]) -> Image.Image:
    """Draw the annotator's outline in orange and the model's in sky blue on an X-ray."""
    height, width = xray.image.shape
    scale = _SIDE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = Image.fromarray(xray.image).resize(size, Image.Resampling.BILINEAR)
    pixels = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    for mask, colour in ((xray.mask, _TRUE), (predicted, _PREDICTED)):
        pixels[_line(mask, size)] = colour
    return Image.fromarray(pixels)


def _line(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    inside = np.asarray(small) >= 128
    line: NDArray[np.bool_] = inside & ~ndimage.binary_erosion(inside, iterations=2)
    return line
