"""Fit the quality head on pooled embeddings of a frozen model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from model_store.quality_head import QUALITY_LABELS, QualityHead, pooled
from training.data.dataset import LabelledXray
from training.quality.changes import QualitySample, changed_xray, other_picture, ruined_xray
from training.quality.damage import Grey
from training.quality.encoding import FrozenEncoder

Floats = NDArray[np.float32]

_BATCH_SIZE = 32
_HIDDEN = 32
_FALSE_ALARMS = 0.004
"""Largest share of good X-rays of `val` that get a label."""

_REPEATS = 5
"""Repetitions of X-rays of all sources but the largest: children are nine in ten of `train`."""


class QualityPictures(Dataset[QualitySample]):
    """Pictures by number, each a pure function of seed and number."""

    def __init__(
        self, xrays: Sequence[LabelledXray], others: Sequence[Grey], input_size: int,
        count: int, seed: int, good: bool = False,
    ) -> None:  # fmt: skip
        """Keep the sources of pictures; with ``good`` all are unchanged X-rays."""
        self._xrays = list(xrays) if good else _balanced(xrays)
        self._others = others
        self._input_size = input_size
        self._count = count
        self._seed = seed
        self._good = good

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self._count

    def __getitem__(self, number: int) -> QualitySample:
        """Return a picture."""
        rng = np.random.default_rng([self._seed, number])
        if self._good:
            good = self._xrays[number % len(self._xrays)]
            return changed_xray(good, self._input_size, rng, change=False)
        xray = self._xrays[int(rng.integers(len(self._xrays)))]
        kind = rng.random()
        if kind < 0.14 and self._others:
            picture = self._others[int(rng.integers(len(self._others)))]
            return other_picture(picture, self._input_size, rng)
        if kind < 0.28:
            second = self._xrays[int(rng.integers(len(self._xrays)))]
            return ruined_xray(xray, second, self._input_size, rng)
        return changed_xray(xray, self._input_size, rng, change=kind < 0.85)


def _balanced(xrays: Sequence[LabelledXray]) -> list[LabelledXray]:
    """Return X-rays, those of all sources but the largest `_REPEATS` times."""
    largest, _ = Counter(xray.source for xray in xrays).most_common(1)[0]
    rarer = [xray for xray in xrays if xray.source != largest]
    return [*xrays, *rarer * (_REPEATS - 1)]


def features(
    encoder: FrozenEncoder, pictures: QualityPictures, workers: int
) -> tuple[Floats, Floats, Floats]:
    """Return pooled embeddings (N, F), labels and their certainty, (N, labels) each."""
    loader = DataLoader(
        pictures, batch_size=_BATCH_SIZE, num_workers=workers, collate_fn=list,
    )  # fmt: skip
    rows: list[Floats] = []
    labels: list[Floats] = []
    known: list[Floats] = []
    for batch in loader:
        pixels, valid = (
            np.stack([getattr(x, name) for x in batch]) for name in ("pixels", "valid")
        )
        rows += [pooled(embedding) for embedding in encoder.embeddings(pixels, valid)]
        labels += [one.labels for one in batch]
        known += [one.known for one in batch]
    return np.stack(rows), np.stack(labels), np.stack(known)


@dataclass(frozen=True)
class Fitting:
    """The settings of fitting a head.

    Attributes:
        steps: Steps of 256 pictures.
        rate: Peak rate of AdamW.
        decay: Its weight decay.
        pull: Weight of the squared distance from the initial head.
    """

    steps: int
    rate: float
    decay: float
    pull: float


FRESH = Fitting(steps=4000, rate=4e-3, decay=0.05, pull=0.0)
TUNING = Fitting(steps=400, rate=5e-4, decay=0.0, pull=0.01)
"""Settings to add kinds of pictures to a head trained on tens of thousands, with a few thousand
more. Without the pull the head would memorize these."""


def fit_head(
    rows: Floats, labels: Floats, known: Floats, seed: int, start: QualityHead | None = None
) -> QualityHead:
    """Fit a new head, or fit a stored head further; shapes as from `features`."""
    torch.manual_seed(seed)
    fitting = FRESH if start is None else TUNING
    mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    inputs = torch.from_numpy((rows - mean) / deviation)
    wanted, certain = torch.from_numpy(labels), torch.from_numpy(known)
    hidden, output = _layers(inputs.shape[1], start, mean, deviation)
    parameters = [*hidden.parameters(), *output.parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=fitting.rate, weight_decay=fitting.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, fitting.rate, total_steps=fitting.steps
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(fitting.steps):
        chosen = torch.randint(len(inputs), (256,), generator=generator)
        shown = functional.dropout(inputs[chosen], 0.2)
        logits = output(functional.dropout(torch.relu(hidden(shown)), 0.1))
        each = functional.binary_cross_entropy_with_logits(
            logits, wanted[chosen] * 0.98 + 0.01, reduction="none"
        )
        loss = (each * certain[chosen]).sum() / certain[chosen].sum()
        if fitting.pull:
            pairs = zip(parameters, before, strict=True)
            loss = loss + fitting.pull * sum((new - old).square().sum() for new, old in pairs)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    weight = hidden.weight.detach().numpy() / deviation
    bias = hidden.bias.detach().numpy() - weight @ mean
    return QualityHead(
        QUALITY_LABELS, np.ascontiguousarray(weight, np.float32), np.asarray(bias, np.float32),
        output.weight.detach().numpy().copy(), output.bias.detach().numpy().copy(),
    )  # fmt: skip


def _layers(
    count: int, start: QualityHead | None, mean: Floats, deviation: Floats
) -> tuple[nn.Linear, nn.Linear]:
    """Return the two layers for standardized inputs."""
    units = _HIDDEN if start is None else len(start.hidden_bias)
    hidden, output = nn.Linear(count, units), nn.Linear(units, len(QUALITY_LABELS))
    if start is not None:
        bias = start.hidden_bias + start.hidden_weight @ mean
        with torch.no_grad():
            hidden.weight.copy_(torch.from_numpy(start.hidden_weight * deviation))
            hidden.bias.copy_(torch.from_numpy(bias))
            output.weight.copy_(torch.from_numpy(start.output_weight))
            output.bias.copy_(torch.from_numpy(start.output_bias))
    return hidden, output


def head_outputs(head: QualityHead, rows: Floats) -> NDArray[np.float64]:
    """Return probabilities (N, labels) for pooled embeddings (N, F)."""
    hidden = np.maximum(rows @ head.hidden_weight.T + head.hidden_bias, 0)
    logits = hidden @ head.output_weight.T + head.output_bias
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))


def limits_of(good: NDArray[np.float64], least: float = 0.5) -> dict[str, float]:
    """Return the limit of each label, which few good X-rays reach and which is at least a half.

    Args:
        good: Probabilities of good X-rays, (N, labels).
        least: Lowest limit.
    """
    allowed = int(_FALSE_ALARMS * len(good))
    reached = np.sort(good, axis=0)[::-1][allowed]
    return {
        name: round(float(min(max(value + 0.02, least), 0.995)), 3)
        for name, value in zip(QUALITY_LABELS, reached, strict=True)
    }
