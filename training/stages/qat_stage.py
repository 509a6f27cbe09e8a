"""Stage 2: quantization-aware training through the folded weight, rank masks frozen."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from model_store.sam import PromptableSam
from training.adapters.adalora import AdaLoraLinear
from training.adapters.adapted_linear import AdaptedLinear
from training.adapters.adapted_model import find_layers
from training.data.batches import BatchSource
from training.quantization.config import QatConfig
from training.quantization.fake_quantization import EXECUTED_BITS, FakeQuantized, sampling
from training.quantization.post_training import ModelInputs
from training.quantization.quantized_model import add_fake_quantization, to_deployed
from training.quantization.sensitivity.choice import EVERY_LAYER_INT8, PrecisionChoice
from training.stages.stage import Stage, freeze_unused


class QatStage(Stage):
    """Trains adapters, decoder and activation scales under fake quantization.

    There is no orthogonality penalty, because the directions of the factors hardly change.
    """

    name = "stage2"

    def __init__(
        self,
        model: PromptableSam,
        config: QatConfig,
        choice: PrecisionChoice = EVERY_LAYER_INT8,
    ) -> None:
        """Add fake quantization to a model of stage 1 (or a plain one).

        Raises:
            ConfigError: The choice of float layers was made for another model.
        """
        super().__init__(model)
        self._config = config
        self._choice = choice
        self.layers: Mapping[str, FakeQuantized] = self._quantize()
        freeze_unused(model)

    def _quantize(self) -> Mapping[str, FakeQuantized]:
        """Choose the trained parameters, and wrap the layers."""
        self.model.image_encoder.requires_grad_(self._config.train_base)
        for adapter in find_layers(self.model, AdaptedLinear).values():
            for factor in adapter.factors():
                factor.requires_grad_(True)
        for adapter in find_layers(self.model, AdaLoraLinear).values():
            adapter.frozen_mask = True
        return add_fake_quantization(self.model, self._choice, self._config.activation_bits)

    @torch.no_grad()
    def calibrate(self, source: BatchSource) -> None:
        """Set every activation scale from the first training batches, in float."""
        self.model.eval()
        with sampling(self.layers.values()):
            for inputs in self._calibration_inputs(source):
                self.model(*inputs)

    def _calibration_inputs(self, source: BatchSource) -> Iterator[ModelInputs]:
        for step in range(self._config.calibration_batches):
            batch = source.batch(step).to(self.model.pixel_mean.device)
            normalized = self.model.normalize(batch.pixels, batch.valid)
            yield normalized, batch.boxes, batch.image_index

    def deployed(self) -> PromptableSam:
        """Return a copy in integers, the model that an export of the current weights stores.

        Activations of fewer bits than engines execute stay fake-quantized, which computes the same.
        """
        copied = copy.deepcopy(self.model)
        if self._config.activation_bits == EXECUTED_BITS:
            to_deployed(copied)
        return copied.eval().requires_grad_(False)

    def extra_state(self) -> dict[str, Any]:
        """Return the layers that stay float, and the measurement for that choice."""
        return {
            "float_layers": list(self._choice.float_layers),
            "sensitivity": self._choice.record,
        }
