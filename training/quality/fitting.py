"""Fitting the quality head on the pooled embeddings of a frozen model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from model_store.quality_head import QUALITY_LABELS, QualityHead, pooled
from model_store.sam import PromptableSam
from training.data.dataset import LabelledXray
from training.quality.changes import (
    Grey,
    QualitySample,
    changed_xray,
    other_picture,
    ruined_xray,
)

Floats = NDArray[np.float32]

_BATCH_SIZE = 32
_HIDDEN = 32
_STEPS = 4000
_FALSE_ALARMS = 0.004
"""Share of good X-rays of `val` that a label may name."""


class QualityPictures(Dataset[QualitySample]):
    """Pictures by number, each a pure function of seed and number."""

    def __init__(
        self, xrays: Sequence[LabelledXray], others: Sequence[Grey], input_size: int,
        count: int, seed: int, good: bool = False,
    ) -> None:  # fmt: skip
        """Hold what pictures are made of; with ``good`` all are X-rays without a change."""
        self._xrays = xrays
        self._others = others
        self._input_size = input_size
        self._count = count
        self._seed = seed
        self._good = good

    def __len__(self) -> int:
        """Return how many pictures there are."""
        return self._count

    def __getitem__(self, number: int) -> QualitySample:
        """Return a picture."""
        rng = np.random.default_rng([self._seed, number])
        xray = self._xrays[number % len(self._xrays)]
        if self._good:
            return changed_xray(xray, self._input_size, rng, change=False)
        kind = rng.random()
        if kind < 0.14 and self._others:
            picture = self._others[int(rng.integers(len(self._others)))]
            return other_picture(picture, self._input_size, rng)
        if kind < 0.28:
            second = self._xrays[int(rng.integers(len(self._xrays)))]
            return ruined_xray(xray, second, self._input_size, rng)
        return changed_xray(xray, self._input_size, rng, change=kind < 0.85)


def features(
    model: PromptableSam, pictures: QualityPictures, workers: int
) -> tuple[Floats, Floats, Floats]:
    """Return pooled embeddings (N, F), labels and what is certain of them, (N, labels) each."""
    device = model.pixel_mean.device
    loader = DataLoader(
        pictures, batch_size=_BATCH_SIZE, num_workers=workers, collate_fn=list,
    )  # fmt: skip
    rows: list[Floats] = []
    labels: list[Floats] = []
    known: list[Floats] = []
    with torch.inference_mode():
        for batch in loader:
            planes = (np.stack([getattr(x, name) for x in batch]) for name in ("pixels", "valid"))
            pixels, valid = (torch.from_numpy(plane)[:, None].to(device) for plane in planes)
            embeddings = model.encode_image(model.normalize(pixels, valid)).float().cpu().numpy()
            rows += [pooled(embedding) for embedding in embeddings]
            labels += [one.labels for one in batch]
            known += [one.known for one in batch]
    return np.stack(rows), np.stack(labels), np.stack(known)


def fit_head(rows: Floats, labels: Floats, known: Floats, seed: int) -> QualityHead:
    """Fit the head; shapes as `features` returns them."""
    torch.manual_seed(seed)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    inputs = torch.from_numpy((rows - mean) / deviation)
    wanted, certain = torch.from_numpy(labels), torch.from_numpy(known)
    hidden = nn.Linear(inputs.shape[1], _HIDDEN)
    output = nn.Linear(_HIDDEN, len(QUALITY_LABELS))
    parameters = [*hidden.parameters(), *output.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=_STEPS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_STEPS):
        chosen = torch.randint(len(inputs), (256,), generator=generator)
        shown = functional.dropout(inputs[chosen], 0.2)
        logits = output(functional.dropout(torch.relu(hidden(shown)), 0.1))
        each = functional.binary_cross_entropy_with_logits(
            logits, wanted[chosen] * 0.98 + 0.01, reduction="none"
        )
        loss = (each * certain[chosen]).sum() / certain[chosen].sum()
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


def head_outputs(head: QualityHead, rows: Floats) -> NDArray[np.float64]:
    """Return probabilities (N, labels) for pooled embeddings (N, F)."""
    hidden = np.maximum(rows @ head.hidden_weight.T + head.hidden_bias, 0)
    logits = hidden @ head.output_weight.T + head.output_bias
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))


def limits_of(good: NDArray[np.float64], least: float = 0.5) -> dict[str, float]:
    """Return the limit of each label: one that hardly a good X-ray reaches, and at least a half.

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
