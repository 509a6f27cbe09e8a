"""Baseline methods of adaptation, for comparison with AdaLoRA: LoRA, decoder only, every weight."""

from __future__ import annotations

from model_store.sam import PromptableSam
from training.adapters.adapted_model import add_lora
from training.config import RunConfig
from training.stages.adalora_stage import AdaLoraStage
from training.stages.stage import Stage, freeze_unused


class BaselineStage(Stage):
    """Trains mask decoder and prompt encoder, and optionally the image encoder's own weights."""

    name = "stage1"

    def __init__(self, model: PromptableSam, *, train_encoder: bool) -> None:
        """Keep ``model`` for training; freeze unused parts of the prompt encoder."""
        super().__init__(model)
        model.image_encoder.requires_grad_(train_encoder)
        freeze_unused(model)


def build_stage1(model: PromptableSam, config: RunConfig) -> Stage:
    """Return the stage of ``config.adaptation.method``.

    Raises:
        ConfigError: The method's settings do not fit the model or the run.
    """
    method = config.adaptation.method
    if method == "adalora":
        return AdaLoraStage(model, config.adalora, config.steps)
    stage = BaselineStage(model, train_encoder=method == "full")
    if method == "lora":
        add_lora(model, config.lora)
    return stage
