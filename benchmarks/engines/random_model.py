"""A SAM of any size with random weights, and its INT8 twin calibrated on noise, for timings.

The models stay in memory for timings on a GPU, or are written by the project's export.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_store.architecture import SamConfig, build_sam
from model_store.artifact import wrap_matrix
from model_store.int8_layers import Int8Matrix
from model_store.integers import ACTIVATION_HIGH, quantize_weight, weight_scale
from model_store.quantizable import quantizable_layers, replace_module
from model_store.sam import PromptableSam
from training.export import write_deployed
from training.quantization.config import QatConfig
from training.quantization.fake_quantization import sampling
from training.stages.qat_stage import QatStage


def random_float_model(config: SamConfig, device: torch.device) -> PromptableSam:
    """Return a float model with random weights, position tables included."""
    torch.manual_seed(0)
    model = build_sam(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            parameter.normal_(0.0, 0.2)
    return model.to(device)


def int8_twin(model: PromptableSam, input_size: int) -> PromptableSam:
    """Return an INT8 copy; activation scales cover the largest input of each layer for noise."""
    twin = copy.deepcopy(model)
    largest: dict[str, Tensor] = {}
    layers = quantizable_layers(twin)

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = inputs[0].abs().max()
            largest[name] = torch.maximum(largest.get(name, seen), seen)

        return hook

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    device, channels = twin.pixel_mean.device, twin.pixel_mean.shape[1]
    noise = torch.randn(1, channels, input_size, input_size, device=device)
    box = torch.tensor([[0.0, 0.0, input_size, input_size]], device=device)
    with torch.inference_mode():
        twin(noise, box, torch.zeros(1, dtype=torch.int64, device=device))
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        weight = layer.weight.flatten(1)
        scale = weight_scale(weight)
        step = largest[name].clone().clamp(min=1e-6) / ACTIVATION_HIGH
        bias = None if layer.bias is None else layer.bias.detach().clone()
        matrix = Int8Matrix(quantize_weight(weight, scale), scale, step, bias)
        replace_module(twin, name, wrap_matrix(matrix, layer).to(device))
    return twin.eval().requires_grad_(False)


def write_random_models(config: SamConfig, out: Path) -> tuple[Path, Path]:
    """Store a random model in INT8 and its float twin, like exports of stage 2 and stage 1.

    Args:
        config: Sizes of the architecture.
        out: Folder of stored models; existing models stay.

    Returns:
        Folders of the INT8 model and of its twin.
    """
    name = f"{config.variant.replace('_', '-')}-{config.input_size}-random"
    integers, floats = out / name / "1", out / f"{name}-float" / "1"
    device = torch.device("cpu")
    if not (floats / "README.md").exists():  # an export writes the card last
        model = random_float_model(config, device)
        write_deployed(model, config, out, name=floats.parent.name, version="1")
    if not (integers / "README.md").exists():
        stage = QatStage(random_float_model(config, device), QatConfig())
        side = config.input_size
        noise = torch.randn(1, config.in_channels, side, side)
        box, first = torch.tensor([[0.0, 0.0, side, side]]), torch.zeros(1, dtype=torch.int64)
        with torch.inference_mode(), sampling(stage.layers.values()):
            stage.model(noise, box, first)
        write_deployed(stage.model, config, out, name=name, version="1")
    return integers, floats
