"""The inputs for rounding a model's weights without training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from model_store.geometry import InputGeometry
from model_store.sam import PromptableSam
from model_store.weight_levels import WeightLevels
from training.data.dataset import LabelledXray
from training.evaluation.scores import prompt_boxes
from training.quantization.post_training import (
    ModelInputs,
    Rounding,
    add_few_levels,
    float_layer_names,
    round_weights,
)


def calibration_inputs(
    model: PromptableSam, xrays: Sequence[LabelledXray], input_size: int
) -> Iterator[ModelInputs]:
    """Yield the model's input for each X-ray, with its own box and the whole image."""
    device = next(model.buffers()).device
    for xray in xrays:
        height, width = xray.image.shape
        geometry = InputGeometry(width, height, input_size)
        pixels = torch.from_numpy(geometry.image_to_input(xray.image))[None, None].to(device)
        valid = torch.from_numpy(geometry.valid_region())[None, None].to(device)
        boxes = torch.tensor([geometry.box_to_input(box) for box in prompt_boxes(xray)])
        index = torch.zeros(len(boxes), dtype=torch.int64, device=device)
        yield model.normalize(pixels, valid), boxes.to(device), index


def round_by_xrays(
    model: PromptableSam,
    xrays: Sequence[LabelledXray],
    input_size: int,
    levels: int,
    rounding: Rounding = "gptq",
) -> None:
    """Fake-quantize every quantizable layer, without training.

    Args:
        model: A float model; changed in place.
        xrays: X-rays for activation scales and moments, 48 or more.
        input_size: Side of the model's input, in pixels.
        levels: Integers that a weight can have.
        rounding: Method of rounding weights.
    """
    layers = add_few_levels(model, WeightLevels(levels), float_layer_names(model))
    round_weights(model, layers, calibration_inputs(model, xrays, input_size), rounding)
