"""Add fake quantization to a model, and convert it to the deployed integers."""

from __future__ import annotations

from model_store.int8_layers import Int8Matrix
from model_store.manifest import Precision
from model_store.quantizable import quantizable_layers, replace_module
from model_store.sam import PromptableSam
from model_store.weight_levels import EIGHT_BIT_LEVELS, WeightLevels
from training.adapters.adapted_model import find_layers, merge_adapters
from training.errors import ConfigError
from training.quantization.config import QatConfig
from training.quantization.fake_quantization import EXECUTED_BITS, FakeQuantized
from training.quantization.few_level_layer import FewLevelQuantized
from training.quantization.post_training import add_few_levels
from training.quantization.sensitivity.choice import (
    EVERY_LAYER_INT8,
    PrecisionChoice,
    check_layers,
)


def add_fake_quantization(
    model: PromptableSam,
    choice: PrecisionChoice = EVERY_LAYER_INT8,
    activation_bits: int = EXECUTED_BITS,
) -> dict[str, FakeQuantized]:
    """Wrap every quantizable layer except those chosen to stay float.

    Raises:
        ConfigError: The choice was made for another model.
    """
    names = quantizable_names(model)
    check_layers(choice, names)
    layers: dict[str, FakeQuantized] = {}
    for name in names:
        if name not in choice.float_layers:
            source = model.get_submodule(name)
            layers[name] = FakeQuantized(source, activation_bits)  # type: ignore[arg-type]
            replace_module(model, name, layers[name])
    return layers


def add_few_level_quantization(
    model: PromptableSam, config: QatConfig, choice: PrecisionChoice = EVERY_LAYER_INT8
) -> dict[str, FewLevelQuantized]:
    """Fold a model's adapters and wrap every layer except those chosen to stay float.

    Raises:
        ConfigError: The choice was made for another model.
    """
    merge_adapters(model)
    names = quantizable_names(model)
    check_layers(choice, names)
    kept = [name for name in names if name not in choice.float_layers]
    return add_few_levels(model, WeightLevels(config.weight_levels), kept, config.activation_bits)


def quantizable_names(model: PromptableSam) -> list[str]:
    """Return the quantizable layers; an adapted layer counts as one."""
    names = [name.removesuffix(".base") for name in quantizable_layers(model)]
    return [name.removesuffix(".source").removesuffix(".base") for name in names]


def packed_levels(model: PromptableSam) -> dict[str, int]:
    """Return the number of levels of each layer of few levels; call it before `to_deployed`."""
    return {
        name: layer.levels.count
        for name, layer in sorted(find_layers(model, FewLevelQuantized).items())
        if layer.levels.count != EIGHT_BIT_LEVELS
    }


def to_deployed(model: PromptableSam) -> dict[str, Precision]:
    """Convert a trained model to its deployed form in place.

    Returns:
        The precision of every quantizable layer.

    Raises:
        ConfigError: Its activations have fewer bits than any engine executes.
    """
    fake = find_layers(model, FakeQuantized)
    bits = min((layer.activation_bits for layer in fake.values()), default=EXECUTED_BITS)
    if bits != EXECUTED_BITS:
        raise ConfigError(
            f"qat.activation_bits is {bits}; engines execute {EXECUTED_BITS}, so this model can be "
            "trained and measured, but neither exported nor served"
        )
    for name, layer in fake.items():
        replace_module(model, name, layer.to_integers())
    merge_adapters(model)
    precisions: dict[str, Precision] = dict.fromkeys(quantizable_layers(model), "float")
    precisions.update(
        {name.removesuffix(".matrix"): "int8" for name in find_layers(model, Int8Matrix)}
    )
    return dict(sorted(precisions.items()))
