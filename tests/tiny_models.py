"""Models small enough for a test: 64 pixels, width 32, depth 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_store.architecture import SamConfig, build_sam, sam_config
from model_store.conventions import CONVENTIONS
from model_store.engine.widened_attention import widen_attention
from model_store.int8_layers import Int8Matrix
from model_store.prediction import PredictionRequest
from model_store.sam import PromptableSam
from training.export import write_deployed
from training.quantization.config import QatConfig
from training.quantization.fake_quantization import sampling
from training.quantization.quantized_model import to_deployed
from training.quantization.sensitivity.choice import PrecisionChoice
from training.stages.qat_stage import QatStage


def make_tiny_config(**changes: Any) -> SamConfig:
    """A SAM of 64 pixels, width 32 and depth 2."""
    sizes: dict[str, Any] = {
        "input_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "prompt_dim": 32,
        "decoder_heads": 2, "decoder_mlp_dim": 32, "iou_head_hidden_dim": 16,
    }  # fmt: skip
    return sam_config("vit_t", **{**sizes, **changes})


def make_tiny_model(seed: int = 0, **changes: Any) -> PromptableSam:
    """The tiny SAM with random weights, position tables included."""
    torch.manual_seed(seed)
    model = build_sam(make_tiny_config(**changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(0.0, 0.2)
    return model.eval()


def write_tiny_artifact(out: Path, seed: int = 0, version: str = "1") -> Path:
    """Store the tiny SAM in INT8, scales calibrated on noise; returns its folder."""
    model = make_tiny_model(seed)
    stage = QatStage(model, QatConfig())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), sampling(stage.layers.values()):
        pixels = torch.rand(2, 1, 64, 64, generator=generator) * 255
        model(model.normalize(pixels), torch.tensor([[4.0, 4.0, 60.0, 60.0]] * 2), torch.arange(2))
    return write_deployed(model, make_tiny_config(), out, name="tiny", version=version).folder


def quantized(float_layers: tuple[str, ...] = (), **changes: Any) -> PromptableSam:
    """A tiny integer model on the CPU's modules, with windows if asked."""
    model = make_tiny_model(**changes)
    stage = QatStage(model, QatConfig(), PrecisionChoice(float_layers))
    with torch.no_grad(), sampling(stage.layers.values()):
        pixels = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
        model(model.normalize(pixels), torch.tensor([[4.0, 4.0, 60.0, 60.0]] * 2), torch.arange(2))
    to_deployed(model)
    for module in model.modules():
        if isinstance(module, Int8Matrix):
            module.use_backend("cpu")
    widen_attention(model.image_encoder)
    return model.eval().requires_grad_(False)


def images(count: int, channels: int = 1) -> Tensor:
    """Random inputs of the tiny SAM, (count, channels, 64, 64)."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, 64, 64, generator=generator) * 4 - 2


def make_requests(count: int) -> list[PredictionRequest]:
    """X-rays of noise: 8 and 16 bits, several sizes, one or two boxes, both conventions."""
    rng = np.random.default_rng(5)
    requests = []
    for index in range(count):
        height, width = (int(n) for n in rng.integers(40, 200, 2))
        noise = rng.integers(0, 65536 if index % 2 else 256, (height, width))
        image = noise.astype(np.uint16) if index % 2 else noise.astype(np.uint8)
        boxes = ((0.0, 0.0, width / 2, height / 2), (1.5, 2.0, float(width), float(height)))
        convention = CONVENTIONS[index % 2]
        requests.append(PredictionRequest(image, boxes[: 1 + index % 2], convention))
    return requests
