"""The X-rays and boxes of each training step, as a pure function of seed and step.

There is no state between steps, so a resumed run gets exactly the batches of an uninterrupted one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.conventions import token_of
from model_store.geometry import Box
from training.acceleration.distributed import ONE_PROCESS, Processes
from training.data.augmentation import AugmentConfig, AugmentedXray, augment
from training.data.dataset import LabelledXray, fold_of
from training.data.further_masks import PLANES, FurtherMasks
from training.data.prompts import PromptMix, draw_prompt, lungs_meant, tight_box
from training.data.row_choice import spread
from training.errors import ConfigError


@dataclass(frozen=True)
class TrainingBatch:
    """One step's input and target.

    Attributes:
        pixels: Grey values of 0 to 255, uint8 as in serving, (B, 1, S, S).
        valid: 1 where there is image, uint8 (B, 1, S, S).
        boxes: Prompt boxes in input pixels, (N, 4).
        image_index: Image of each prompt, int64 (N,).
        tokens: Mask token of each prompt's convention, int64 (N,).
        target: Share of each pixel that belongs to the mask, (N, L, L).
        folds: Fold of each prompt's X-ray, int64 (N,).
        further: Shares of 255 of the further masks (`training.data.further_masks`), uint8 (B, 3, L,
            L); (B, 0, L, L) if no X-ray has any.
        further_meant: 1 where a prompt selects one of their planes, (N, 3).
        further_known: 1 where the other convention's lungs and the heart are known, (N, 2).
    """

    pixels: Tensor
    valid: Tensor
    boxes: Tensor
    image_index: Tensor
    tokens: Tensor
    target: Tensor
    folds: Tensor
    further: Tensor
    further_meant: Tensor
    further_known: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """Return the batch on a device."""
        moved = {name: v.to(device, non_blocking=True) for name, v in vars(self).items()}
        return TrainingBatch(**moved)

    def copy_(self, other: TrainingBatch) -> None:
        """Copy the values of a batch of the same shapes.

        Raises:
            ValueError: A shape differs.
        """
        for name, value in vars(self).items():
            new = getattr(other, name)
            if new.shape != value.shape:
                raise ValueError(f"{name} is {tuple(new.shape)}, not {tuple(value.shape)}")
            value.copy_(new, non_blocking=True)

    def pin_memory(self) -> TrainingBatch:
        """Return the batch in pinned memory."""
        return TrainingBatch(**{name: value.pin_memory() for name, value in vars(self).items()})


class BatchSource:
    """Draws batches from X-rays in memory, each source repeated as configured."""

    def __init__(
        self,
        xrays: Sequence[LabelledXray],
        repeats: Mapping[str, int],
        augment: AugmentConfig,
        prompts: PromptMix,
        *,
        input_size: int,
        loss_size: int,
        batch_size: int,
        prompts_per_image: int,
        seed: int,
        folds: int = 1,
    ) -> None:
        """Keep the X-rays; ``repeats`` is the number of uses of a source's rows in one epoch."""
        self._folds = folds
        self._xrays = xrays
        self._augment = augment
        self._prompts = prompts
        self._input_size = input_size
        self._loss_size = loss_size
        self._batch_size = batch_size
        self._prompts_per_image = prompts_per_image
        self._seed = seed
        self._processes = ONE_PROCESS
        self._has_further = any(xray.further is not None for xray in xrays)
        self._epoch_rows = np.concatenate(
            [np.full(repeats.get(x.source, 1), index) for index, x in enumerate(xrays)]
        ).astype(np.int64)

    def divided(self, processes: Processes) -> BatchSource:
        """Return this source for one process, which makes its share of each batch.

        Raises:
            ConfigError: The X-rays of a step cannot be divided evenly.
        """
        rows_per_step = min(self._batch_size, len(self._epoch_rows))
        if rows_per_step % processes.count:
            raise ConfigError(
                f"a step's {rows_per_step} X-rays cannot be divided evenly among "
                f"{processes.count} processes; choose a batch_size that is a multiple"
            )
        share = copy.copy(self)
        share._processes = processes
        return share

    @property
    def input_size(self) -> int:
        """Side of the model's input, in pixels."""
        return self._input_size

    def unchanged(self, batches: int) -> list[LabelledXray]:
        """Return X-rays for a number of batches, or all if there are fewer.

        They are not augmented, and equally many come from each data set as far as possible.
        """
        sources = {xray.source for xray in self._xrays}
        return spread(self._xrays, -(-batches * self._batch_size // len(sources)))

    @property
    def rows_per_epoch(self) -> int:
        """Rows of an epoch, repeated as configured."""
        return len(self._epoch_rows)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return max(1, len(self._epoch_rows) // self._batch_size)

    def rows_of_step(self, step: int) -> list[int]:
        """Return the rows of step ``step`` (from 0); an epoch has each as often as configured."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, epoch]).permutation(self._epoch_rows)
        start = place * self._batch_size
        return [int(row) for row in order[start : start + self._batch_size]]

    def share_of_step(self, step: int) -> list[tuple[int, int]]:
        """Return this process's positions in the step's batch, with their rows."""
        return list(self._processes.share(list(enumerate(self.rows_of_step(step)))))

    def batch(self, step: int) -> TrainingBatch:
        """Make the batch of step ``step`` (from 0), or this process's share of it."""
        places, rows = zip(*self.share_of_step(step), strict=True)
        rngs = [np.random.default_rng([self._seed, step, place]) for place in places]
        xrays = [self._xrays[row] for row in rows]
        moved = [
            augment(
                xray.image, xray.lungs, self._input_size, self._augment, rng,
                None if xray.further is None else xray.further.planes,
            )
            for xray, rng in zip(xrays, rngs, strict=True)
        ]  # fmt: skip
        further = [
            self._further(xray.further, seen) for xray, seen in zip(xrays, moved, strict=True)
        ]
        further_meant: list[list[bool]] = []
        boxes: list[Box] = []
        targets: list[NDArray[np.float32]] = []
        tokens: list[int] = []
        for xray, seen, rng in zip(xrays, moved, rngs, strict=True):
            lungs, shares = seen.lungs >= 128, self._shares(seen.lungs)
            bounds = tight_box(seen.valid > 0) or _whole(self._input_size)
            for _ in range(self._prompts_per_image):
                box, meant = draw_prompt(lungs, bounds, self._prompts, rng)
                boxes.append(box)
                targets.append(shares[meant].sum(axis=0).clip(max=1.0))
                tokens.append(token_of(xray.convention))
                further_meant.append([*meant, _is_heart_meant(box, seen)])
        image_index = torch.arange(len(rows)).repeat_interleave(self._prompts_per_image)
        return TrainingBatch(
            pixels=torch.from_numpy(np.stack([seen.pixels[None] for seen in moved])),
            valid=torch.from_numpy(np.stack([seen.valid[None] for seen in moved])),
            boxes=torch.tensor(boxes, dtype=torch.float32),
            image_index=image_index,
            tokens=torch.tensor(tokens),
            folds=torch.tensor([fold_of(x.group, self._folds) for x in xrays])[image_index],
            target=torch.from_numpy(np.stack(targets)),
            further=torch.from_numpy(np.stack([planes for planes, _ in further])),
            further_meant=torch.tensor(further_meant, dtype=torch.float32),
            further_known=torch.tensor([known for _, known in further])[image_index],
        )

    def _further(
        self, known: FurtherMasks | None, seen: AugmentedXray
    ) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        """Return the further masks at the loss size, (3, L, L), and which of them are known."""
        side = self._loss_size
        if not self._has_further:
            return np.zeros((0, side, side), np.uint8), (0.0, 0.0)
        if known is None:
            return np.zeros((PLANES, side, side), np.uint8), (0.0, 0.0)
        small = [cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in seen.further]
        return np.stack(small), (float(known.lungs_known), float(known.heart_known))

    def _shares(self, lungs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the share of lung in each pixel at the loss size, (2, L, L)."""
        side = self._loss_size
        small = [
            cv2.resize(lung.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
            for lung in lungs
        ]
        return np.asarray(np.stack(small), np.float32) / np.float32(255.0)


def _is_heart_meant(box: Box, seen: AugmentedXray) -> bool:
    if not len(seen.further):
        return False
    return bool(lungs_meant(box, seen.further[2:] >= 128)[0])


def _whole(size: int) -> Box:
    return (0.0, 0.0, float(size), float(size))
