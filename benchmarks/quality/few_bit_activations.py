"""The bits that an activation needs: inputs of every layer are rounded without training.

Weights are float, or have four levels by GPTQ. The input of each quantizable layer is rounded to
steps of one scale, by least squares on X-rays of `train`: symmetric around 0 as in 8-bit models, or
from its own lowest value. No engine here executes fewer than 8 bits; this shows whether one would
be useful. Masks are compared with the float model's on X-rays of `val`, own box. Existing results
in ``--out`` are used again.

    python -m benchmarks.quality.few_bit_activations --data DATA
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.processor import processor_name
from benchmarks.quality.beside_float import FloatMasks, Row, kept, print_heading, print_row
from model_store.artifact import load_model
from model_store.model_index import default_float_twin_folder
from model_store.quantizable import quantizable_layers
from model_store.sam import PromptableSam
from training.data.dataset import LabelledXray, load_xrays, read_rows
from training.data.row_choice import spread
from training.quantization.calibration import calibration_inputs, round_by_xrays
from training.quantization.few_level_layer import FewLevelQuantized

BITS = (8, 6, 5, 4, 3)
AROUND_0, OWN_LOWEST = "around 0", "own lowest"
RANGES = (AROUND_0, OWN_LOWEST)
FLOAT_WEIGHTS, FOUR_LEVELS = "float weights", "4 levels"

_SAMPLES_PER_CALL = 512
_SHARES = tuple(0.5 ** (4 * place / 15) for place in range(16))
"""Candidate ranges as shares of the samples' range, from all of it to a sixteenth."""


@dataclass(frozen=True)
class Steps:
    """The rounding of a layer's input: ``count`` steps of ``scale`` from ``lowest``."""

    lowest: float
    scale: float
    count: int

    def rounded(self, values: Tensor) -> Tensor:
        """Return the nearest steps, same shape."""
        steps = torch.round((values - self.lowest) / self.scale).clamp(0, self.count - 1)
        return steps * self.scale + self.lowest


def fitted_steps(samples: Tensor, bits: int, own_lowest: bool) -> Steps:
    """Return the steps of least squared error on samples (n,).

    Args:
        samples: Inputs of a layer.
        bits: Number of bits, for 2 to the power of ``bits`` steps.
        own_lowest: Whether the lowest step is free; otherwise steps are around 0, with one more
            below than above, as in 8-bit models.
    """
    count = 2**bits
    low, high = float(samples.min()), float(samples.max())
    if own_lowest:
        candidates = [
            Steps(low * down, max((high * up - low * down) / (count - 1), 1e-9), count)
            for down in _SHARES
            for up in _SHARES
        ]
    else:
        largest = max(-low / (count // 2), high / (count // 2 - 1), 1e-9)
        scales = [largest * share for share in _SHARES]
        candidates = [Steps(-scale * (count // 2), scale, count) for scale in scales]
    return min(candidates, key=lambda one: float((one.rounded(samples) - samples).square().mean()))


@torch.no_grad()
def sampled_inputs(
    model: PromptableSam, xrays: Sequence[LabelledXray], size: int
) -> dict[str, Tensor]:
    """Run a float model on X-rays; return some of each layer's inputs, the extremes among them."""
    found: dict[str, list[Tensor]] = {}

    def keep(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        flat = inputs[0].detach().flatten()
        extremes = torch.stack([flat.min(), flat.max()])
        chosen = flat[:: max(1, flat.numel() // _SAMPLES_PER_CALL)]
        found.setdefault(name, []).append(torch.cat([chosen, extremes]))

    handles = [
        layer.register_forward_pre_hook(functools.partial(keep, name))
        for name, layer in quantizable_layers(model).items()
    ]
    for inputs in calibration_inputs(model, xrays, size):
        model(*inputs)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(one) for name, one in found.items()}


def round_inputs(model: PromptableSam, steps: Mapping[str, Steps]) -> None:
    """Round the inputs of the named layers from now on."""

    def hook(own: Steps, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (own.rounded(inputs[0]), *inputs[1:])

    for name, own in steps.items():
        model.get_submodule(name).register_forward_pre_hook(functools.partial(hook, own))


@torch.no_grad()
def four_levels(model: PromptableSam, xrays: Sequence[LabelledXray], size: int) -> PromptableSam:
    """Return a float model whose weights have four levels by GPTQ."""
    rounded = copy.deepcopy(model)
    round_by_xrays(rounded, xrays, size, levels=4)
    result = copy.deepcopy(model)
    for name, layer in rounded.named_modules():
        if isinstance(layer, FewLevelQuantized):
            integers, scale = layer.stored_weight()
            own = result.get_submodule(name)
            assert isinstance(own, nn.Linear | nn.Conv2d)
            own.weight.copy_((integers * scale[:, None]).view_as(own.weight))
            if own.bias is not None and layer.source.bias is not None:
                own.bias.copy_(layer.source.bias)
    return result


class RoundedModels:
    """Models of one kind of weights with rounded inputs."""

    def __init__(
        self, weights: str, twin: PromptableSam, seen: Sequence[LabelledXray], size: int,
        folder: Path,
    ) -> None:  # fmt: skip
        """Keep the kind of weights, the float model, X-rays for scales, and a folder."""
        self._weights, self._twin, self._folder = weights, twin, folder
        self._seen, self._size = seen, size

    @functools.cached_property
    def _model(self) -> PromptableSam:
        own = copy.deepcopy(self._twin).eval()
        return own if self._weights == FLOAT_WEIGHTS else four_levels(own, self._seen, self._size)

    @functools.cached_property
    def _samples(self) -> dict[str, Tensor]:
        return sampled_inputs(self._model, self._seen, self._size)

    def row(self, bits: int, kind: str, float_masks: FloatMasks) -> Row:
        """Measure a model whose inputs have a number of bits, or read its stored result."""
        name = f"{self._weights}_{kind}_{bits}.pt".replace(" ", "_")
        return Row(**kept(self._folder / name, lambda: asdict(self._row(bits, kind, float_masks))))

    def _row(self, bits: int, kind: str, float_masks: FloatMasks) -> Row:
        asked = copy.deepcopy(self._model)
        own_lowest = kind == OWN_LOWEST
        found = self._samples.items()
        round_inputs(asked, {name: fitted_steps(one, bits, own_lowest) for name, one in found})
        return float_masks.row(asked, f"{self._weights}, {kind}", bits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Round, segment, print the table and one line of JSON."""
    options = _parser().parse_args(arguments)
    twin, manifest = load_model(options.twin)
    size = int(manifest.architecture["input_size"])
    seen = load_xrays(spread(read_rows(options.data, "train"), options.calibration))
    xrays = load_xrays(spread(read_rows(options.data, "val"), options.per_source))
    print(f"{processor_name()}, {os.cpu_count()} cores; {manifest.name}/{manifest.version}, "
          f"{len(xrays)} X-rays of val, own box; scales of {len(seen)} of train")  # fmt: skip
    asked = f"{options.per_source}_{options.calibration}"
    folder = options.out / f"{manifest.name}_{manifest.version}_{asked}"
    folder.mkdir(parents=True, exist_ok=True)
    float_masks = FloatMasks.of(twin, xrays, size, folder / "float_masks.pt")
    print("bits of activations stand under levels; weights and range in the name")
    print_heading()
    rows: list[Row] = []
    for weights in options.weights:
        models = RoundedModels(weights, twin, seen, size, folder)
        for bits in options.bits:
            for kind in RANGES:
                rows.append(models.row(bits, kind, float_masks))
                print_row(rows[-1])
    print(json.dumps([asdict(row) for row in rows]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.few_bit_activations")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--twin", type=Path, default=default_float_twin_folder(),
                        help="stored float model (default: the served model's)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/few_bit_activations"),
                        help="keeps what was measured (default: %(default)s)")  # fmt: skip
    parser.add_argument("--per-source", type=int, default=10, help="X-rays of each data set")
    parser.add_argument("--calibration", type=int, default=12,
                        help="X-rays of each data set of train that scales come from")  # fmt: skip
    parser.add_argument("--bits", type=int, nargs="+", default=BITS)
    parser.add_argument("--weights", nargs="+", default=(FLOAT_WEIGHTS, FOUR_LEVELS),
                        choices=(FLOAT_WEIGHTS, FOUR_LEVELS))  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
