"""The plain ways to adapt a base, which AdaLoRA has to beat: LoRA, decoder only, every weight."""

from __future__ import annotations

from model_store.sam import PromptableSam
from training.adapters.adapted_model import add_lora
from training.config import RunConfig
from training.errors import ConfigError
from training.stages.adalora_stage import AdaLoraStage
from training.stages.stage import Stage, freeze_unused


class LoraStage(Stage):
    """Trains adapters of a fixed rank, mask decoder and prompt encoder."""

    name = "stage1"

    def __init__(self, model: PromptableSam, config: RunConfig) -> None:
        """Put adapters into ``model``; the encoder's own weights are frozen.

        Raises:
            ConfigError: The rank exceeds the width of a layer.
        """
        super().__init__(model)
        model.image_encoder.requires_grad_(False)
        freeze_unused(model)
        add_lora(model, config.lora)


class DecoderStage(Stage):
    """Trains mask decoder and prompt encoder; the image encoder is frozen."""

    name = "stage1"

    def __init__(self, model: PromptableSam) -> None:
        """Freeze the image encoder of ``model``."""
        super().__init__(model)
        model.image_encoder.requires_grad_(False)
        freeze_unused(model)


class FullStage(Stage):
    """Trains every weight."""

    name = "stage1"

    def __init__(self, model: PromptableSam) -> None:
        """Train ``model``; unused parts of the prompt encoder stay as they are."""
        super().__init__(model)
        freeze_unused(model)


def build_stage1(model: PromptableSam, config: RunConfig) -> Stage:
    """Return the stage of ``config.adaptation.method``.

    Raises:
        ConfigError: The method's settings do not fit the model or the run.
    """
    method = config.adaptation.method
    if method == "adalora":
        return AdaLoraStage(model, config.adalora, config.steps)
    if method == "lora":
        return LoraStage(model, config)
    if method == "decoder_only":
        return DecoderStage(model)
    if method == "full":
        return FullStage(model)
    raise ConfigError(f"adaptation.method {method!r} has no stage")
