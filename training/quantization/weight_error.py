"""Comparison of a stored model's INT8 weights with its float twin's weights.

Stage 2 started from the twin, so the stored integers differ from the twin's weights by its training
and by rounding. To separate the two, the twin's own weights are rounded by the same scheme; that
error is rounding alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from model_store.int8_layers import Int8Matrix
from model_store.integers import quantize_weight, weight_scale
from model_store.quantizable import quantizable_layers
from model_store.sam import PromptableSam

Values = NDArray[np.float32]


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer, flat, all of one length.

    Attributes:
        floating: The twin's weights.
        stored: Dequantized stored weights.
        rounded: The twin's weights after rounding by the same scheme.
        stored_step: Step of the stored integers at each weight.
        rounded_step: Step of the rounding at each weight.
    """

    name: str
    floating: Values
    stored: Values
    rounded: Values
    stored_step: Values
    rounded_step: Values

    @property
    def stored_snr_db(self) -> float:
        """Signal-to-noise ratio of the stored weights, in dB."""
        return snr_db(self.floating, self.stored)

    @property
    def rounded_snr_db(self) -> float:
        """Signal-to-noise ratio of rounding alone, in dB."""
        return snr_db(self.floating, self.rounded)


@dataclass(frozen=True)
class Moments:
    """Moments of an error; mean and SD also define the best-fitting Gaussian.

    Attributes:
        sd: Standard deviation.
        skew: Third standardised moment; 0 for a symmetric error.
        kurtosis: Excess kurtosis; 0 for a Gaussian, -1.2 for a uniform error.
    """

    mean: float
    sd: float
    skew: float
    kurtosis: float


def snr_db(signal: Values, noisy: Values) -> float:
    """Return 10 log10 of signal power over error power; infinite without an error."""
    noise = float(np.square(noisy - signal, dtype=np.float64).sum())
    power = float(np.square(signal, dtype=np.float64).sum())
    return 10 * float(np.log10(power / noise)) if noise and power else float("inf")


def compare_weights(stored: PromptableSam, twin: PromptableSam) -> list[LayerWeights]:
    """Pair the weights of every integer layer with the twin's, in the order of the network."""
    plain = quantizable_layers(twin)
    return [
        _pair(name.removesuffix(".matrix"), matrix, plain)
        for name, matrix in stored.named_modules()
        if isinstance(matrix, Int8Matrix)
    ]


def _pair(name: str, matrix: Int8Matrix, plain: Mapping[str, nn.Module]) -> LayerWeights:
    floating = plain[name].get_parameter("weight").detach().float().cpu().flatten(1)
    step = matrix.weight_scale.cpu()[:, None]
    own_step = weight_scale(floating)
    rounded = quantize_weight(floating, own_step).float() * own_step[:, None]
    stored = matrix.weight.cpu().float() * step
    return LayerWeights(
        name,
        floating.flatten().numpy(),
        stored.flatten().numpy(),
        rounded.flatten().numpy(),
        step.expand_as(floating).flatten().numpy(),
        own_step[:, None].expand_as(floating).flatten().numpy(),
    )


def error_in_steps(layers: list[LayerWeights], *, rounding_alone: bool = False) -> Values:
    """Return the error of every weight of all layers, in steps of its own channel's integers."""
    parts = [
        (x.rounded - x.floating) / x.rounded_step
        if rounding_alone
        else (x.stored - x.floating) / x.stored_step
        for x in layers
    ]
    return np.concatenate(parts)


def moments(errors: Values) -> Moments:
    """Return the moments of errors, (N,); without spread, skew and kurtosis are 0."""
    values = errors.astype(np.float64)
    if np.ptp(values) == 0:
        return Moments(float(values[0]), 0.0, 0.0, 0.0)
    return Moments(
        float(values.mean()), float(values.std()),
        float(stats.skew(values)), float(stats.kurtosis(values)),
    )  # fmt: skip


def correlation(layers: list[LayerWeights]) -> float:
    """Return the Pearson correlation of the twin's and the stored weights over all layers."""
    floating = np.concatenate([x.floating for x in layers]).astype(np.float64)
    stored = np.concatenate([x.stored for x in layers]).astype(np.float64)
    return float(np.corrcoef(floating, stored)[0, 1])


def error_by_magnitude(
    layers: list[LayerWeights], bins: int = 16, *, rounding_alone: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the root mean square error against the size of the weight, both in steps.

    Returns:
        Centres of the bins (integer magnitude, 0..63) and the error in each; NaN for an empty bin.
    """
    steps = [x.rounded_step if rounding_alone else x.stored_step for x in layers]
    magnitude = np.concatenate([abs(x.floating) / s for x, s in zip(layers, steps, strict=True)])
    errors = error_in_steps(layers, rounding_alone=rounding_alone).astype(np.float64)
    edges = np.linspace(0, 63, bins + 1)
    place = np.clip(np.digitize(magnitude, edges) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    squares = np.bincount(place, errors**2, minlength=bins)
    with np.errstate(invalid="ignore"):
        return (edges[:-1] + edges[1:]) / 2, np.sqrt(squares / counts)
