"""The interface of a stage: its model, its trained weights, its actions at each step.

The loop uses only `Stage`, whose defaults are those of plain training. The AdaLoRA and the
quantization-aware stage are in separate modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model_store.sam import PromptableSam


class Stage:
    """A stage; by default it trains every weight that is not frozen."""

    name: ClassVar[str]

    def __init__(self, model: PromptableSam) -> None:
        """Keep the model to train."""
        self.model = model

    def to(self, device: torch.device) -> None:
        """Move the model and the stage's own state to the training device."""
        self.model.to(device)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the trained parameters."""
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)

    def deployed(self) -> PromptableSam:
        """Return the model for validation: the current weights in deployed form."""
        return self.model

    def penalty(self) -> Tensor | None:
        """Return an addition to the loss, or None."""
        return None

    def after_backward(self, step: int) -> None:
        """Use the gradients of step ``step`` (from 0), before the optimizer's step."""

    def after_step(self, step: int) -> dict[str, float]:
        """Act after the optimizer's step; return numbers for the log."""
        return {}

    def finish(self, folder: Path) -> None:
        """Write the further files of a finished run."""

    def settled(self) -> bool:
        """Return whether the weights have the final form of this stage."""
        return True

    def extra_state(self) -> dict[str, Any]:
        """Return the state for a checkpoint beside the weights."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Load the result of `extra_state`."""


class PretrainStage(Stage):
    """Trains every weight of a float model."""

    name = "pretrain"

    def __init__(self, model: PromptableSam) -> None:
        """Keep the model to train; freeze unused parts of the prompt encoder."""
        super().__init__(model)
        freeze_unused(model)


def freeze_unused(model: PromptableSam) -> None:
    """Freeze parts that box prompts do not use: SAM's embeddings of points and of masks.

    A model with the box as mask prompt trains the embedding of masks, and never uses that of no
    mask.
    """
    prompt = model.prompt_encoder
    masks = prompt.no_mask_embed if model.box_as_mask else prompt.mask_downscaling
    unused = [masks, prompt.not_a_point_embed, *prompt.point_embeddings[:2]]
    for module in unused:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
