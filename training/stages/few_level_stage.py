"""Stage 2 for weights of few levels: every weight learns its integer, started by GPTQ."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from training.data.batches import BatchSource
from training.quantization.fake_quantization import FakeQuantized
from training.quantization.post_training import round_weights
from training.quantization.quantized_model import add_few_level_quantization
from training.stages.qat_stage import QatStage


class FewLevelStage(QatStage):
    """Trains the integers of all weights, their scales, and what stays float.

    Adapters are folded before: their low rank says where a float weight should go, not which of
    four integers it should be.
    """

    def _quantize(self) -> Mapping[str, FakeQuantized]:
        self.model.requires_grad_(True)
        layers = add_few_level_quantization(self.model, self._config, self._choice)
        for layer in layers.values():
            layer.unit.requires_grad_(self._config.integers_learn)
        self._rounded = layers
        return layers

    @torch.no_grad()
    def calibrate(self, source: BatchSource) -> None:
        """Round every weight by GPTQ, and set the activation scales, from training batches."""
        round_weights(self.model, self._rounded, self._calibration_inputs(source))
