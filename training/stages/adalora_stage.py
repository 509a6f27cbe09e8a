"""Stage 1: AdaLoRA on q, k and v of every encoder block, the mask decoder in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_store.sam import PromptableSam
from training.adapters.adalora import AdaLoraLinear, mean_penalty
from training.adapters.adapted_model import add_adapters
from training.adapters.config import AdaLoraConfig
from training.adapters.rank_allocator import RankAllocator
from training.adapters.rank_map import save_rank_map
from training.stages.stage import Stage, freeze_unused


class AdaLoraStage(Stage):
    """Trains adapters, mask decoder and prompt encoder; the encoder's own weights are frozen."""

    name = "stage1"

    def __init__(self, model: PromptableSam, config: AdaLoraConfig, total_steps: int) -> None:
        """Add adapters to ``model``.

        Raises:
            ConfigError: The budget schedule does not fit into ``total_steps``.
        """
        super().__init__(model)
        self._config = config
        model.image_encoder.requires_grad_(False)
        freeze_unused(model)
        self._adapters: dict[str, AdaLoraLinear] = add_adapters(model, config)
        self._allocator = RankAllocator(self._adapters, config, total_steps)
        self._kept = self._allocator.initial_budget

    def to(self, device: torch.device) -> None:
        """Move the model and the allocator's statistics."""
        super().to(device)
        self._allocator.to(device)

    def penalty(self) -> Tensor | None:
        """Return the weighted orthogonality penalty of all adapted layers."""
        weight, kind = self._config.orthogonality, self._config.penalty
        return weight * mean_penalty(self._adapters.values(), kind)

    def after_backward(self, step: int) -> None:
        """Update the importance of the triplets from the gradients."""
        self._allocator.observe_gradients()

    def after_step(self, step: int) -> dict[str, float]:
        """Apply the budget at every interval; report the number of kept triplets."""
        if self._allocator.is_due(step):
            self._kept = self._allocator.allocate(step)
        return {"rank_total": float(self._kept)}

    def finish(self, folder: Path) -> None:
        """Draw the map of the ranks."""
        save_rank_map(folder, self._allocator.ranks(), self._config.initial_rank)

    def settled(self) -> bool:
        """Return whether the rank masks are frozen at the target budget."""
        return all(adapter.frozen_mask for adapter in self._adapters.values())

    def extra_state(self) -> dict[str, Any]:
        """Return the allocator's statistics and the ranks of each slice."""
        return {
            "allocator": self._allocator.state_dict(),
            "kept": self._kept,
            "frozen": self.settled(),
            "ranks": self._allocator.ranks(),
        }

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Load the allocator's statistics."""
        self._allocator.load_state_dict(state["allocator"])
        self._kept = int(state["kept"])
        for adapter in self._adapters.values():
            adapter.frozen_mask = bool(state["frozen"])
