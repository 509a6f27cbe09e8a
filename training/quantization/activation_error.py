"""Signal-to-noise ratio of every integer layer's output, on X-rays.

There are two figures per layer. *Running* compares the outputs of both models on the X-ray, so it
includes the errors of all earlier layers. *Own* gives the integer layer the twin's input, so it is
the error of this layer alone (its weights and the rounding of its input).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from model_store.int8_layers import Int8Matrix
from model_store.sam import PromptableSam
from training.data.dataset import DataRow, load_xray
from training.evaluation.probability_maps import probability_map
from training.evaluation.scores import prompt_boxes


@dataclass
class LayerNoise:
    """Powers of one layer's output, summed over X-rays."""

    signal: float = 0.0
    own: float = 0.0
    running: float = 0.0
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def own_snr_db(self) -> float:
        """Signal-to-noise ratio of the layer alone, in dB."""
        return _snr_db(self.signal, self.own)

    @property
    def running_snr_db(self) -> float:
        """Signal-to-noise ratio of the model up to this layer, in dB."""
        return _snr_db(self.signal, self.running)


def _snr_db(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if noise and signal else math.inf


def activation_noise(
    stored: PromptableSam, twin: PromptableSam, rows: Sequence[DataRow], input_size: int
) -> dict[str, LayerNoise]:
    """Run X-rays through both models, each with its own box, and compare every integer layer.

    Args:
        stored: The integer model.
        twin: The model before quantization.
        rows: A few X-rays, each of which gives a layer thousands of values.
        input_size: Side of the models' input, in pixels.
    """
    names = [
        name.removesuffix(".matrix")
        for name, module in stored.named_modules()
        if isinstance(module, Int8Matrix)
    ]
    found = {name: LayerNoise() for name in names}
    handles = [
        twin.get_submodule(name).register_forward_hook(
            _observe_twin(found[name], stored.get_submodule(name))
        )
        for name in names
    ]
    observe = {name: _observe_stored(found[name]) for name in names}
    try:
        for row in rows:
            xray = load_xray(row)
            box = prompt_boxes(xray)[0]
            probability_map(twin, xray, box, input_size)
            now = [stored.get_submodule(n).register_forward_hook(observe[n]) for n in names]
            try:
                probability_map(stored, xray, box, input_size)
            finally:
                for handle in now:
                    handle.remove()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _observe_twin(noise: LayerNoise, integer_layer: nn.Module):  # type: ignore[no-untyped-def]
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        noise.signal += float(output.double().square().sum())
        noise.own += float((integer_layer(inputs[0]) - output).double().square().sum())
        noise.outputs.append(output.clone())

    return hook


def _observe_stored(noise: LayerNoise):  # type: ignore[no-untyped-def]
    """Compare with the twin's output of the same call; a layer may run several times."""

    def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        wanted = noise.outputs.pop(0)
        noise.running += float((output - wanted).double().square().sum())

    return hook
