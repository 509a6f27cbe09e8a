"""Quantize one layer at a time, with all others float, and measure the loss of the masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.conventions import token_of
from model_store.geometry import InputGeometry
from model_store.logit_resampling import logits_to_image
from model_store.quantizable import quantizable_layers, replace_module
from model_store.sam import PromptableSam
from training.adapters.adapted_model import merge_adapters
from training.data.dataset import LabelledXray
from training.evaluation.metrics import dice
from training.evaluation.scores import prompt_boxes
from training.evaluation.similarity import map_similarity
from training.quantization.fake_quantization import FakeQuantized, folded_weight, sampling
from training.quantization.sensitivity.table import ALL_LAYERS, LayerSensitivity, SensitivityTable

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Sample:
    """The model's input for an X-ray, and the float model's results.

    Attributes:
        xray: The X-ray with its true mask.
        geometry: How it lies in the model's input.
        normalized: The input, (1, C, S, S).
        boxes: Its own box and the whole image, in input pixels, (2, 4).
        embedding: The float encoder's output, (1, D, G, G).
        masks: The float model's masks, one per box.
        dices: Their Dice with the true mask.
    """

    xray: LabelledXray
    geometry: InputGeometry
    normalized: Tensor
    boxes: Tensor
    embedding: Tensor
    masks: tuple[Mask, ...]
    dices: tuple[float, ...]


@torch.no_grad()
def measure_sensitivity(
    model: PromptableSam,
    calibration: Sequence[LabelledXray],
    xrays: Sequence[LabelledXray],
    input_size: int,
    show: Callable[[int, int], None] = lambda done, total: None,
) -> SensitivityTable:
    """Quantize every layer alone, and all together, without training.

    Args:
        model: A float model; its adapters are folded, and otherwise it is unchanged afterwards.
        calibration: X-rays that set the activation scales.
        xrays: X-rays on which the masks are compared, each with its own box and the whole image.
        input_size: Side of the model's input, in pixels.
        show: Called with the number of finished measurements and their total.
    """
    model.eval()
    merge_adapters(model)
    layers = _calibrated(model, calibration, input_size)
    samples = [_float_sample(model, xray, input_size) for xray in xrays]
    rows: list[LayerSensitivity] = []
    for place, name in enumerate([ALL_LAYERS, *layers]):
        chosen = layers if name == ALL_LAYERS else {name: layers[name]}
        encoder_is_float = not any(n.startswith("image_encoder.") for n in chosen)
        with _quantized(model, chosen):
            losses = [_losses(model, sample, encoder_is_float) for sample in samples]
        rows.append(_summary(name, chosen, samples, losses))
        show(place + 1, len(layers) + 1)
    return SensitivityTable.of(rows)


def _calibrated(
    model: PromptableSam, xrays: Sequence[LabelledXray], input_size: int
) -> dict[str, FakeQuantized]:
    layers = {name: FakeQuantized(layer) for name, layer in quantizable_layers(model).items()}
    device = next(model.parameters()).device
    for layer in layers.values():
        layer.to(device)
    with _quantized(model, layers), sampling(layers.values()):
        for xray in xrays:
            _, normalized, boxes = _input(model, xray, input_size)
            image_index = torch.zeros(2, dtype=torch.int64, device=device)
            model(normalized, boxes, image_index)
    return layers


@contextmanager
def _quantized(model: PromptableSam, layers: dict[str, FakeQuantized]) -> Iterator[None]:
    """Fake-quantize these layers within the block."""
    for name, layer in layers.items():
        replace_module(model, name, layer)
    try:
        yield
    finally:
        for name, layer in layers.items():
            replace_module(model, name, layer.source)


def _input(
    model: PromptableSam, xray: LabelledXray, input_size: int
) -> tuple[InputGeometry, Tensor, Tensor]:
    device = next(model.parameters()).device
    height, width = xray.image.shape
    geometry = InputGeometry(width, height, input_size)
    pixels = torch.from_numpy(geometry.image_to_input(xray.image)).to(device)
    valid = torch.from_numpy(geometry.valid_region()).to(device)
    boxes = [geometry.box_to_input(box) for box in prompt_boxes(xray)]
    normalized = model.normalize(pixels[None, None], valid[None, None])
    return geometry, normalized, torch.tensor(boxes, device=device)


def _float_sample(model: PromptableSam, xray: LabelledXray, input_size: int) -> _Sample:
    geometry, normalized, boxes = _input(model, xray, input_size)
    embedding = model.encode_image(normalized)
    masks = _masks(model, embedding, boxes, xray, geometry)
    dices = tuple(dice(mask, xray.mask) for mask in masks)
    return _Sample(xray, geometry, normalized, boxes, embedding, masks, dices)


def _masks(
    model: PromptableSam,
    embedding: Tensor,
    boxes: Tensor,
    xray: LabelledXray,
    geometry: InputGeometry,
) -> tuple[Mask, ...]:
    image_index = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    logits, _ = model.decode_masks(embedding, boxes, image_index)
    full = logits_to_image(logits[:, token_of(xray.convention)].float(), geometry)
    return tuple((full > 0).cpu().numpy())


def _losses(
    model: PromptableSam, sample: _Sample, encoder_is_float: bool
) -> list[tuple[float, float]]:
    """Return Dice lost and SSIM lost for each box of an X-ray."""
    embedding = sample.embedding
    if not encoder_is_float:
        embedding = model.encode_image(sample.normalized)
    masks = _masks(model, embedding, sample.boxes, sample.xray, sample.geometry)
    return [
        (before - dice(mask, sample.xray.mask), 1.0 - _similarity(mask, floating))
        for mask, floating, before in zip(masks, sample.masks, sample.dices, strict=True)
    ]


def _similarity(first: Mask, second: Mask) -> float:
    if np.array_equal(first, second):
        return 1.0
    return map_similarity(first.astype(np.float32), second.astype(np.float32)).whole


def _summary(
    name: str,
    layers: dict[str, FakeQuantized],
    samples: Sequence[_Sample],
    losses: Sequence[Sequence[tuple[float, float]]],
) -> LayerSensitivity:
    by_source: dict[str, list[tuple[float, float]]] = {}
    for sample, pairs in zip(samples, losses, strict=True):
        by_source.setdefault(sample.xray.source, []).extend(pairs)
    means = np.array([np.mean(pairs, axis=0) for pairs in by_source.values()]).mean(axis=0)
    return LayerSensitivity(
        layer=name,
        weights=sum(folded_weight(layer.source).numel() for layer in layers.values()),
        dice_lost=float(means[0]),
        worst_dice_lost=max(lost for pairs in losses for lost, _ in pairs),
        ssim_lost=float(means[1]),
    )
