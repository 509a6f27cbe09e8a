"""The number of parameters that a run trains in each part of the model.

The model is built on torch's meta device, without numbers, so even ViT-H is counted at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from model_store.architecture import SamConfig, build_sam
from model_store.weight_levels import EIGHT_BIT_LEVELS
from training.adapters.adapted_linear import AdaptedLinear
from training.adapters.adapted_model import find_layers
from training.config import RunConfig
from training.quantization.sensitivity.choice import choose_precisions
from training.stages.baseline_stages import build_stage1
from training.stages.few_level_stage import FewLevelStage
from training.stages.qat_stage import QatStage
from training.stages.stage import PretrainStage, Stage

_PARTS = {
    "image_encoder": "image encoder",
    "prompt_encoder": "prompt encoder",
    "mask_decoder": "mask decoder",
}
_ADAPTERS, _SCALES = "adapters", "scales of quantization"


@dataclass(frozen=True)
class PartCount:
    """Parameters of one part of a model."""

    trainable: int
    frozen: int


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a run.

    Attributes:
        parts: Counts by part; adapters and scales are separate parts.
        base: Parameters of the model without adapters and scales.
        base_encoder: Parameters of its image encoder.
    """

    parts: dict[str, PartCount]
    base: int
    base_encoder: int

    @property
    def trainable(self) -> int:
        """All trained parameters."""
        return sum(part.trainable for part in self.parts.values())

    @property
    def frozen(self) -> int:
        """All frozen parameters."""
        return sum(part.frozen for part in self.parts.values())


def count_parameters(config: RunConfig, architecture: SamConfig) -> ParameterCount:
    """Count the parameters at the start of a run, when AdaLoRA has its initial rank.

    Args:
        config: Settings of the run.
        architecture: The model that it starts from.

    Raises:
        ConfigError: The run's settings do not fit the model.
    """
    with torch.device("meta"):
        model = build_sam(architecture)
        base = sum(p.numel() for p in model.parameters())
        base_encoder = sum(p.numel() for p in model.image_encoder.parameters())
        stage = _build_stage(config, architecture)
    factors = {
        id(factor)
        for adapter in find_layers(stage.model, AdaptedLinear).values()
        for factor in adapter.factors()
    }
    counts: dict[str, list[int]] = {}
    for name, parameter in stage.model.named_parameters():
        part = _PARTS[name.partition(".")[0]]
        if id(parameter) in factors:
            part = _ADAPTERS
        elif name.endswith((".log_scale", ".log_weight_scale")):
            part = _SCALES
        count = counts.setdefault(part, [0, 0])
        count[0 if parameter.requires_grad else 1] += parameter.numel()
    order = (_ADAPTERS, *_PARTS.values(), _SCALES)
    parts = {name: PartCount(*counts[name]) for name in order if name in counts}
    return ParameterCount(parts, base, base_encoder)


def _build_stage(config: RunConfig, architecture: SamConfig) -> Stage:
    model = build_sam(architecture)
    if config.stage == "pretrain":
        return PretrainStage(model)
    if config.stage == "stage1":
        return build_stage1(model, config)
    # Stage 2 has fewer steps than the stage 1 schedule of its adapters.
    made = dataclasses.replace(config, stage="stage1", steps=10**9)
    choice = choose_precisions(config.qat)
    kind = QatStage if config.qat.weight_levels == EIGHT_BIT_LEVELS else FewLevelStage
    return kind(build_stage1(model, made).model, config.qat, choice)


def format_count(count: ParameterCount) -> str:
    """Return the count as text, a line per part."""
    head = f"{'part':<20} {'trainable':>12} {'frozen':>12}"
    lines = [head, "-" * len(head)]
    lines += [f"{n:<20} {p.trainable:>12,} {p.frozen:>12,}" for n, p in count.parts.items()]
    lines += ["-" * len(head), f"{'all':<20} {count.trainable:>12,} {count.frozen:>12,}"]
    millions = count.trainable / 1e6
    for name, number in (("model", count.base), ("image encoder", count.base_encoder)):
        lines.append(
            f"{millions:.3f} M train, {number / count.trainable:.1f}x fewer than the "
            f"{number / 1e6:.1f} M of the {name}"
        )
    return "\n".join(lines)
