"""Dice on the ``val`` split while training: per source, with its own box and the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model_store.conventions import token_of
from model_store.geometry import Box, InputGeometry
from model_store.sam import PromptableSam
from training.dataset import LabelledXray
from training.distributed import ONE_PROCESS, Processes
from training.metrics import dice
from training.prompts import tight_box

_BATCH_SIZE = 16


@dataclass(frozen=True)
class ValidationScores:
    """Mean Dice per source.

    Attributes:
        own_box: With the tight box of both lungs.
        whole_image: With the whole image as the box.
    """

    own_box: dict[str, float]
    whole_image: dict[str, float]

    @property
    def selection(self) -> float:
        """The number that decides which weights are kept: every source counts the same."""
        scores = [*self.own_box.values(), *self.whole_image.values()]
        return float(np.mean(scores))


def validate(
    model: PromptableSam,
    xrays: Sequence[LabelledXray],
    input_size: int,
    processes: Processes = ONE_PROCESS,
) -> ValidationScores:
    """Score a model in float32 at each image's own resolution, each in its own convention.

    Several processes score a share of the X-rays each, and all of them get all scores.
    """
    own: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    dices = processes.gather(dice_of_each(model, processes.share(xrays), input_size))
    for xray, (own_dice, whole_dice) in zip(xrays, dices, strict=True):
        own.setdefault(xray.source, []).append(own_dice)
        whole.setdefault(xray.source, []).append(whole_dice)
    return ValidationScores(_means(own), _means(whole))


@torch.no_grad()
def dice_of_each(
    model: PromptableSam, xrays: Sequence[LabelledXray], input_size: int
) -> list[tuple[float, float]]:
    """Return the Dice of each X-ray, with its own box and with the whole image as the box."""
    was_training = model.training
    model.eval()
    scores: list[tuple[float, float]] = []
    for start in range(0, len(xrays), _BATCH_SIZE):
        scores += _score_batch(model, xrays[start : start + _BATCH_SIZE], input_size)
    model.train(was_training)
    return scores


def _score_batch(
    model: PromptableSam, xrays: Sequence[LabelledXray], input_size: int
) -> list[tuple[float, float]]:
    device = next(model.parameters()).device
    geometries = [InputGeometry(x.image.shape[1], x.image.shape[0], input_size) for x in xrays]
    pixels = np.stack([g.image_to_input(x.image) for g, x in zip(geometries, xrays, strict=True)])
    valid = np.stack([g.valid_region() for g in geometries])
    boxes = [box for x, g in zip(xrays, geometries, strict=True) for box in _boxes(x, g)]
    normalized = model.normalize(
        torch.from_numpy(pixels).unsqueeze(1).to(device),
        torch.from_numpy(valid).unsqueeze(1).to(device),
    )
    image_index = torch.arange(len(xrays), device=device).repeat_interleave(2)
    logits, _ = model(normalized, torch.tensor(boxes, device=device), image_index)
    scores: list[tuple[float, float]] = []
    for place, (xray, geometry) in enumerate(zip(xrays, geometries, strict=True)):
        pair = logits[2 * place : 2 * place + 2, token_of(xray.convention)].float().cpu()
        masks = geometry.logits_to_image(pair).numpy() > 0
        scores.append((dice(masks[0], xray.mask), dice(masks[1], xray.mask)))
    return scores


def _boxes(xray: LabelledXray, geometry: InputGeometry) -> tuple[Box, Box]:
    whole = (0.0, 0.0, float(geometry.width), float(geometry.height))
    own = tight_box(xray.mask) or whole
    return geometry.box_to_input(own), geometry.box_to_input(whole)


def _means(scores: dict[str, list[float]]) -> dict[str, float]:
    return {source: float(np.mean(values)) for source, values in sorted(scores.items())}
