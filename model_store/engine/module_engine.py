"""Execution layer by layer by PyTorch's modules, which works everywhere and is the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from model_store.engine.widened_attention import widen_attention
from model_store.int8_layers import Int8Matrix
from model_store.sam import PromptableSam


class ModuleEngine:
    """The model's own modules, one after the other."""

    name = "modules"
    batches_alike = False

    def __init__(self, model: PromptableSam, fallback_reason: str | None = None) -> None:
        """Execute ``model`` as it is; see `Engine` for ``fallback_reason``."""
        self._model = model
        self.fallback_reason = fallback_reason

    def encode_image(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""
        return self._model.encode_image(normalized)

    def decode_box(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one box (1, 4) on one embedding (1, D, G, G)."""
        return self._model.decode_masks(embedding, box, torch.zeros(1, dtype=torch.int64))

    def record_further(self) -> bool:
        """Do nothing: this engine records nothing."""
        return False


def layer_by_layer(model: PromptableSam) -> ModuleEngine:
    """Execute a model by PyTorch's modules on a CPU, with their fastest attention."""
    widen_attention(model.image_encoder)
    for module in model.modules():
        if isinstance(module, Int8Matrix):
            module.use_backend("cpu")
    return ModuleEngine(model)
