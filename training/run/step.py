"""One step of training: gradients of a batch, ranks, weights and their running mean."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from training.acceleration.compilation import compile_parts
from training.acceleration.cuda_graph import CapturedGradients
from training.acceleration.mixed_precision import autocast
from training.data.batches import TrainingBatch
from training.losses import MaskLoss
from training.optimizers.groups import build_optimizers
from training.optimizers.rates import rate_share, set_rates
from training.optimizers.weight_average import WeightAverage
from training.run.accumulation import parts_of
from training.run.feature_imitation import FeatureImitation
from training.run.further_loss import further_loss
from training.run.run import Run


class TrainingStep:
    """Makes the steps of a run.

    Attributes:
        optimizers: The optimizers of the weights.
        average: The running mean of the weights.
    """

    def __init__(self, run: Run) -> None:
        """Build optimizers and loss; compile the model if the settings say so."""
        self._run = run
        self._loss = MaskLoss(run.config.loss, run.config.loss_size)
        self._model = run.processes.averaging(run.stage.model)
        if run.config.compile:
            compile_parts(run.stage.model)
        parameters = list(run.stage.named_parameters())
        self._parameters = [parameter for _, parameter in parameters]
        self.optimizers = build_optimizers(parameters, run.config.optimizer)
        self.average = WeightAverage(parameters, run.config.optimizer.ema_decay)
        teacher, weight = run.teacher, run.config.teacher.features
        self._features = (
            FeatureImitation(run.stage.model, teacher.models[0], weight)
            if teacher is not None and weight
            else None
        )
        self._captured: CapturedGradients[TrainingBatch] | None = None
        self._captured_settled = False

    def __call__(self, step: int, batch: TrainingBatch) -> dict[str, Tensor | float]:
        """Make step ``step`` (from 0) on a batch.

        Returns:
            Terms of the loss, the gradient's norm, the share of the peak rate, and the stage's
            metrics.
        """
        config, stage = self._run.config, self._run.stage
        share = rate_share(step, config.steps, config.optimizer)
        set_rates(self.optimizers, share)
        terms = self._gradients(batch)
        stage.after_backward(step)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, config.optimizer.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        own_terms = stage.after_step(step)
        self.average.update(step)
        return {**terms, "norm": norm, **own_terms, "rate": share}

    def _gradients(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Write the gradients of a batch to the parameters; return the terms of its loss."""
        if self._can_capture():
            settled = self._run.stage.settled()
            if self._captured is None or settled != self._captured_settled:
                self._captured = CapturedGradients(
                    self.backward, self._parameters, self._run.device
                )
                self._captured_settled = settled
            return self._captured(batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return self.backward(batch.to(self._run.device))

    def _can_capture(self) -> bool:
        config = self._run.config
        alone = self._run.processes.count == 1 and config.accumulate == 1
        return config.compile and self._run.device.type == "cuda" and alone

    def backward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Accumulate the gradients of all parts of the batch, with the penalty in the last part.

        Returns:
            The loss and its terms, which stay on the device.
        """
        sums: dict[str, Tensor] = {}
        parts = list(parts_of(batch, self._run.config.accumulate))
        for place, (part, weight) in enumerate(parts, start=1):
            is_last = place == len(parts)
            without_averaging = self._run.processes.without_averaging
            later = nullcontext() if is_last else without_averaging(self._model)
            with later:
                loss, terms = self._forward(part)
                loss = loss * weight
                terms = {name: term * weight for name, term in terms.items()}
                penalty = self._run.stage.penalty() if is_last else None
                if penalty is not None:
                    terms["penalty"] = penalty.detach()
                    loss = loss + penalty
                loss.backward()  # type: ignore[no-untyped-call]
            for name, term in {"loss": loss.detach(), **terms}.items():
                sums[name] = sums[name] + term if name in sums else term
        return sums

    def _forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        precision, device = self._run.config.precision, self._run.device
        with autocast(precision, device):
            normalized = self._run.stage.model.normalize(batch.pixels, batch.valid)
            inputs = (normalized, batch.boxes, batch.image_index)
            logits, predicted_iou = self._model(*inputs)
        loss, terms = self._loss(logits, predicted_iou, batch.target, batch.tokens)
        further = further_loss(self._loss, logits, predicted_iou, batch)
        if further is not None:
            loss, terms = loss + further[0], {**terms, **further[1]}
        teacher = self._run.teacher
        if teacher is None:
            return loss, terms
        with autocast(precision, device):
            teacher_masks = teacher.masks(*inputs, batch.folds)
        imitation = teacher.loss(logits, teacher_masks, batch.tokens)
        loss, terms = teacher.joined(loss, imitation), {**terms, "imitation": imitation.detach()}
        if self._features is None:
            return loss, terms
        features = self._features.loss()
        return loss + features, {**terms, "features": features.detach()}

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return the model's weights, with the running mean of those that have one."""
        return {**self._run.stage.model.state_dict(), **self.average.state_dict()}

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint needs for an identical next step."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"average": self.average.state_dict(), "optimizers": optimizers}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state`.

        Raises:
            ValueError: It was written with other optimizers.
        """
        self.average.load_state_dict(state["average"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
