"""Which layers of a SAM can be quantized, by name, and the replacement of a module by another.

These are all linear layers and the convolutions of the image encoder (patch embedding and neck).
The transposed convolutions of the mask decoder and the three small convolutions of the mask prompt
stay float.
"""

from __future__ import annotations

from torch import nn

from model_store.sam import PromptableSam


def quantizable_layers(model: PromptableSam) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the float layers that can be quantized, by module name."""
    layers: dict[str, nn.Linear | nn.Conv2d] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d) and name.startswith("image_encoder.")
        ):
            layers[name] = module
    return layers


def replace_module(root: nn.Module, name: str, replacement: nn.Module) -> None:
    """Put ``replacement`` at the dotted ``name`` below ``root``."""
    parent_name, _, child_name = name.rpartition(".")
    setattr(root.get_submodule(parent_name), child_name, replacement)
