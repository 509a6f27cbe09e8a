"""What differs between the stages: which model, which weights train, what happens each step.

The loop knows only `Stage`, whose defaults are those of plain training. The AdaLoRA and the
quantization-aware stage live in modules of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model_store.sam import PromptableSam


class Stage:
    """A stage as the loop sees it; by itself it trains every weight that is not frozen."""

    name: ClassVar[str]

    def __init__(self, model: PromptableSam) -> None:
        """Train ``model``."""
        self.model = model

    def to(self, device: torch.device) -> None:
        """Move the model, and what a stage keeps beside it, to where it will be trained."""
        self.model.to(device)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that train."""
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)

    def deployed(self) -> PromptableSam:
        """Return the model that is validated: the present weights as they would be deployed."""
        return self.model

    def penalty(self) -> Tensor | None:
        """Return what the loss gets added, or None."""
        return None

    def after_backward(self, step: int) -> None:
        """See the gradients of step ``step`` (from 0), before the optimizer moves."""

    def after_step(self, step: int) -> dict[str, float]:
        """Act after the optimizer moved; return numbers for the log."""
        return {}

    def finish(self, folder: Path) -> None:
        """Write what a finished run leaves beside its checkpoints."""

    def settled(self) -> bool:
        """Tell whether the weights have the form in which the stage hands them on."""
        return True

    def extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside the weights."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `extra_state` returned."""


class PretrainStage(Stage):
    """Trains every weight of a float model."""

    name = "pretrain"

    def __init__(self, model: PromptableSam) -> None:
        """Train ``model``; unused parts of the prompt encoder stay as they are."""
        super().__init__(model)
        freeze_unused(model)


def freeze_unused(model: PromptableSam) -> None:
    """Freeze what box prompts never reach: SAM's embeddings of points, of no point, and of masks.

    A model that sees its box as a mask too learns that path, and never has no mask.
    """
    prompt = model.prompt_encoder
    masks = prompt.no_mask_embed if model.box_as_mask else prompt.mask_downscaling
    unused = [masks, prompt.not_a_point_embed, *prompt.point_embeddings[:2]]
    for module in unused:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
