"""Stage 2: quantization-aware training through the folded weight, rank masks frozen."""

from __future__ import annotations

import torch

from model_store.sam import PromptableSam
from training.adalora import AdaLoraLinear
from training.adapted_linear import AdaptedLinear
from training.adapted_model import add_fake_quantization, find_layers
from training.batches import BatchSource
from training.config import QatConfig
from training.fake_quantization import sampling
from training.stages import Stage, freeze_unused


class QatStage(Stage):
    """Trains adapters, decoder and activation scales under fake quantization.

    No orthogonality penalty: the factors only fine-tune, their directions are settled.
    """

    name = "stage2"

    def __init__(self, model: PromptableSam, config: QatConfig) -> None:
        """Put fake quantization into a model of stage 1 (or a plain one).

        Raises:
            ConfigError: ``float_layers`` names an unknown layer.
        """
        super().__init__(model)
        self._config = config
        model.image_encoder.requires_grad_(config.train_base)
        for adapter in find_layers(model, AdaptedLinear).values():
            for factor in adapter.factors():
                factor.requires_grad_(True)
        for adapter in find_layers(model, AdaLoraLinear).values():
            adapter.frozen_mask = True
        self.layers = add_fake_quantization(model, config.float_layers)
        freeze_unused(model)

    @torch.no_grad()
    def calibrate(self, source: BatchSource) -> None:
        """Set every activation scale from the first training batches, in float."""
        self.model.eval()
        with sampling(self.layers.values()):
            for step in range(self._config.calibration_batches):
                batch = source.batch(step)
                normalized = self.model.normalize(batch.pixels, batch.valid)
                self.model(normalized, batch.boxes, batch.image_index)
