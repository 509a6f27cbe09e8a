"""Validation during training: Dice on ``val`` per source, with the own box and the whole image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.conventions import token_of
from model_store.engine.choice import choose_engine
from model_store.engine.module_engine import ModuleEngine
from model_store.engine.protocol import Engine
from model_store.geometry import Box, InputGeometry
from model_store.int8_layers import Int8Matrix
from model_store.logit_resampling import logits_to_image
from model_store.mask_resampling import logits_above
from model_store.sam import PromptableSam
from training.acceleration.distributed import ONE_PROCESS, Processes
from training.data.dataset import LabelledXray
from training.data.prompts import tight_box
from training.evaluation.metrics import dice

Mask = NDArray[np.bool_]

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
        """The number that decides which weights are stored; every source has the same weight."""
        scores = [*self.own_box.values(), *self.whole_image.values()]
        return float(np.mean(scores))


def validate(
    model: PromptableSam,
    xrays: Sequence[LabelledXray],
    input_size: int,
    processes: Processes = ONE_PROCESS,
) -> ValidationScores:
    """Score a model in float32 at each image's own resolution, each in its own convention.

    Each of several processes scores a share of the X-rays, and all get all scores.
    """
    own: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    dices = processes.gather(dice_of_each(model, processes.share(xrays), input_size))
    for xray, (own_dice, whole_dice) in zip(xrays, dices, strict=True):
        own.setdefault(xray.source, []).append(own_dice)
        whole.setdefault(xray.source, []).append(whole_dice)
    return ValidationScores(_means(own), _means(whole))


def dice_of_each(
    model: PromptableSam, xrays: Sequence[LabelledXray], input_size: int
) -> list[tuple[float, float]]:
    """Return the Dice of each X-ray, with its own box and with the whole image as the box."""
    pairs = zip(masks_of_each(model, xrays, input_size), xrays, strict=True)
    return [(dice(own, xray.mask), dice(whole, xray.mask)) for (own, whole), xray in pairs]


def masks_of_each(
    model: PromptableSam, xrays: Sequence[LabelledXray], input_size: int
) -> Iterator[tuple[Mask, Mask]]:
    """Yield the masks of each X-ray, bool (H, W): for its own box and for the whole image.

    An integer model is executed as when deployed, one X-ray and one box at a time, so its masks
    equal the stored model's in every pixel. In a batch or in training's layers, its float parts
    (attention, LayerNorm) add in another order, which sometimes changes an outline.
    """
    if any(isinstance(module, Int8Matrix) for module in model.modules()):
        engine = _engine(model, input_size)
        for xray in xrays:
            with torch.inference_mode():
                masks = _deployed_masks(engine, model, xray, input_size)
            yield masks
        return
    was_training = model.training
    model.eval()
    for start in range(0, len(xrays), _BATCH_SIZE):
        with torch.no_grad():
            batch = _batch_masks(model, xrays[start : start + _BATCH_SIZE], input_size)
        yield from batch
    model.train(was_training)


def _engine(model: PromptableSam, input_size: int) -> Engine:
    """Return the engine of an integer model; not the GPU's, which takes too long to build."""
    if next(model.buffers()).device.type != "cuda":
        return choose_engine(model, input_size)
    for module in model.modules():
        if isinstance(module, Int8Matrix):
            module.use_backend("cuda")
    return ModuleEngine(model)


def _deployed_masks(
    engine: Engine, model: PromptableSam, xray: LabelledXray, input_size: int
) -> tuple[Mask, Mask]:
    geometry, pixels, valid = _input([xray], model, input_size)
    embedding = engine.encode_image(model.normalize(pixels, valid))
    token = token_of(xray.convention)
    masks: list[Mask] = []
    for box in _boxes(xray, geometry[0]):
        logits, _ = engine.decode_box(embedding, torch.tensor([box], device=pixels.device))
        masks.append(logits_above(logits[0, token].float().cpu().numpy(), geometry[0], 0.0))
    return masks[0], masks[1]


def _batch_masks(
    model: PromptableSam, xrays: Sequence[LabelledXray], input_size: int
) -> list[tuple[Mask, Mask]]:
    geometries, pixels, valid = _input(xrays, model, input_size)
    boxes = [box for x, g in zip(xrays, geometries, strict=True) for box in _boxes(x, g)]
    image_index = torch.arange(len(xrays), device=pixels.device).repeat_interleave(2)
    prompts = torch.tensor(boxes, device=pixels.device)
    logits, _ = model(model.normalize(pixels, valid), prompts, image_index)
    found: list[tuple[Mask, Mask]] = []
    for place, (xray, geometry) in enumerate(zip(xrays, geometries, strict=True)):
        pair = logits[2 * place : 2 * place + 2, token_of(xray.convention)].float().cpu()
        masks = logits_to_image(pair, geometry).numpy() > 0
        found.append((masks[0], masks[1]))
    return found


def _input(
    xrays: Sequence[LabelledXray], model: PromptableSam, input_size: int
) -> tuple[list[InputGeometry], Tensor, Tensor]:
    """Return the geometry of X-rays in the input, their pixels and valid regions, (B, 1, S, S)."""
    device = next(model.buffers()).device
    geometries = [InputGeometry(x.image.shape[1], x.image.shape[0], input_size) for x in xrays]
    pixels = np.stack([g.image_to_input(x.image) for g, x in zip(geometries, xrays, strict=True)])
    valid = np.stack([g.valid_region() for g in geometries])
    return (
        geometries,
        torch.from_numpy(pixels).unsqueeze(1).to(device),
        torch.from_numpy(valid).unsqueeze(1).to(device),
    )


def _boxes(xray: LabelledXray, geometry: InputGeometry) -> tuple[Box, Box]:
    whole = (0.0, 0.0, float(geometry.width), float(geometry.height))
    own = tight_box(xray.mask) or whole
    return geometry.box_to_input(own), geometry.box_to_input(whole)


def _means(scores: dict[str, list[float]]) -> dict[str, float]:
    return {source: float(np.mean(values)) for source, values in sorted(scores.items())}
