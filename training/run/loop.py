"""The one training loop of all stages."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_store.architecture import SamConfig
from training.acceleration.captured_gradients import CapturedGradients
from training.acceleration.compilation import compile_parts, uncompiled
from training.acceleration.distributed import ONE_PROCESS, Processes
from training.acceleration.mixed_precision import autocast, slow_precision_warning
from training.checkpoint import BEST, LATEST, save_checkpoint, weights_sha256
from training.config import RunConfig
from training.data.batches import BatchSource, TrainingBatch
from training.data.dataset import LabelledXray
from training.data.prefetching import prefetched
from training.errors import CheckpointError
from training.losses import MaskLoss
from training.optimizers.groups import build_optimizers
from training.optimizers.rates import rate_share, set_rates
from training.optimizers.weight_average import WeightAverage
from training.run.accumulation import parts_of
from training.run.determinism import deterministic_algorithms
from training.run.progress import ProgressBar
from training.run.run_log import RunLog
from training.run.step_terms import StepTerms
from training.run.teacher import Teacher
from training.run.validation import ValidationScores, validate
from training.stages.stage import Stage

_LOG_EVERY_STEPS = 20


class TrainingLoop:
    """Runs a stage from its first or its last stored step to its end."""

    def __init__(
        self,
        config: RunConfig,
        architecture: SamConfig,
        stage: Stage,
        source: BatchSource,
        validation: Sequence[LabelledXray],
        folder: Path,
        device: torch.device,
        lineage: Sequence[dict[str, Any]] = (),
        processes: Processes = ONE_PROCESS,
        teacher: Teacher | None = None,
    ) -> None:
        """Prepare a run that writes into ``folder``; ``lineage`` tells what its base was.

        With several processes, ``source`` holds this process's share of every step.
        """
        self._teacher = teacher
        self._lineage = list(lineage)
        self.config = config
        self.architecture = architecture
        self.stage = stage
        self.folder = folder
        self._source = source
        self._validation = validation
        self._device = device
        self._processes = processes
        self._log = RunLog(folder, writes=processes.is_writer, tensorboard=config.tensorboard)
        self._loss = MaskLoss(config.loss, config.loss_size)
        self._model = processes.averaging(stage.model)
        if config.compile:
            compile_parts(stage.model)
        parameters = list(stage.named_parameters())
        self._parameters = [parameter for _, parameter in parameters]
        self._optimizers = build_optimizers(parameters, config.optimizer)
        self._average = WeightAverage(parameters, config.optimizer.ema_decay)
        self._terms = StepTerms()
        self._step = 0
        self._best = -1.0
        self._validations_without_gain = 0
        self._waited_s = 0.0
        self._captured: CapturedGradients[TrainingBatch] | None = None
        self._captured_settled = False

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self._step

    def resume(self, state: dict[str, Any], name: str) -> None:
        """Continue from a stored ``latest`` checkpoint, read from the file ``name``.

        Raises:
            CheckpointError: It was written with other optimizers.
        """
        self.stage.load_extra_state(state["stage_state"])
        self.stage.model.load_state_dict(state["weights_now"])
        self._average.load_state_dict(state["average"])
        try:
            for optimizer, stored in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(stored)
        except ValueError as error:
            raise CheckpointError(
                f"{name} was written with other optimizers than this run's settings make: {error}"
            ) from error
        self._step, self._best = state["step"], state["best"]
        self._validations_without_gain = state.get("validations_without_gain", 0)
        self._log.write("resume", step=self._step, checkpoint=name)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> ValidationScores | None:
        """Train to the end, or until ``should_stop`` after a step.

        Returns:
            The last validation, or None when stopped before the end; a checkpoint is written in
            both cases.

        Raises:
            CheckpointError: The last checkpoint cannot be written.
            FloatingPointError: A gradient is not finite; no checkpoint holds its step.
        """
        self._log.write("start", step=self._step, config=self.config.to_dict())
        self._warn_of_slow_precision()
        scores = None
        with deterministic_algorithms(self.config.deterministic), self._progress() as bar:
            self.stage.model.train()
            for batch in self._batches():
                self.train_step(batch)
                bar.show_step(self._step)
                if self._is_due(_LOG_EVERY_STEPS):
                    bar.show_loss(self._log_terms()["loss"])
                if self._is_due(self.config.validate_every_steps):
                    scores = self.validate()
                    self._keep_if_best(scores)
                if self._processes.any(should_stop()) and self._step < self.config.steps:
                    self._write(LATEST)
                    self._log.write("stop", step=self._step)
                    return None
                if self._patience_is_over():
                    self._log.write("early_stop", step=self._step, best=self._best)
                    break
                if self._step % self.config.checkpoint_every_steps == 0:
                    self._save(LATEST)
            if scores is None:  # no step was left to do
                scores = self.validate()
                if scores.selection > self._best:
                    self._keep_if_best(scores)
        self._write(LATEST)
        self._log.write("end", step=self._step, best=self._best, sha256=self.weights_sha256())
        if self._processes.is_writer:
            self.stage.finish(self.folder)
        return scores

    def weights_sha256(self) -> str:
        """Return the hash of the weights that the run stands for, its running mean if it has one.

        Equal runs have equal hashes.
        """
        return weights_sha256(self._averaged_weights())

    def _warn_of_slow_precision(self) -> None:
        warning = slow_precision_warning(self.config.precision, self._device)
        if warning is not None and self._processes.is_writer:
            print(f"warning: {warning}", file=sys.stderr)
            self._log.write("warning", step=self._step, reason=warning)

    def _batches(self) -> Iterator[TrainingBatch]:
        if self._patience_is_over():
            return
        steps = range(self._step, self.config.steps)
        asked = time.perf_counter()
        for batch in prefetched(
            self._source.batch, steps, self.config.data.workers, self._device.type == "cuda"
        ):
            self._waited_s = time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()

    def _is_due(self, every_steps: int) -> bool:
        return self._step % every_steps == 0 or self._step == self.config.steps

    def _patience_is_over(self) -> bool:
        return 0 < self.config.patience <= self._validations_without_gain

    def train_step(self, batch: TrainingBatch) -> None:
        """Make the next step on a batch: gradients, ranks, weights, their mean, numbers."""
        share = rate_share(self._step, self.config.steps, self.config.optimizer)
        set_rates(self._optimizers, share)
        terms = self._gradients(batch)
        self.stage.after_backward(self._step)
        terms["norm"] = torch.nn.utils.clip_grad_norm_(
            self._parameters, self.config.optimizer.clip_norm
        )
        for optimizer in self._optimizers:
            optimizer.step()
        own_terms = self.stage.after_step(self._step)
        self._average.update(self._step)
        self._terms.add({**terms, **own_terms, "rate": share, "wait_s": self._waited_s})
        self._step += 1

    def _gradients(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Put the gradients of a batch into the parameters; return the terms of its loss."""
        if self._can_capture():
            settled = self.stage.settled()
            if self._captured is None or settled != self._captured_settled:
                self._captured = CapturedGradients(self._backward, self._parameters, self._device)
                self._captured_settled = settled
            return self._captured(batch)
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        return self._backward(batch.to(self._device))

    def _can_capture(self) -> bool:
        alone = self._processes.count == 1 and self.config.accumulate == 1
        return self.config.compile and self._device.type == "cuda" and alone

    def _backward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Add up the gradients of all parts of the batch; the penalty comes with the last."""
        sums: dict[str, Tensor] = {}
        parts = list(parts_of(batch, self.config.accumulate))
        for place, (part, weight) in enumerate(parts, start=1):
            is_last = place == len(parts)
            later = nullcontext() if is_last else self._processes.without_averaging(self._model)
            with later:
                loss, terms = self._forward(part)
                loss = loss * weight
                terms = {name: term * weight for name, term in terms.items()}
                penalty = self.stage.penalty() if is_last else None
                if penalty is not None:
                    terms["penalty"] = penalty.detach()
                    loss = loss + penalty
                loss.backward()  # type: ignore[no-untyped-call]
            for name, term in {"loss": loss.detach(), **terms}.items():
                sums[name] = sums[name] + term if name in sums else term
        return sums

    def _forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(self.config.precision, self._device):
            normalized = self.stage.model.normalize(batch.pixels, batch.valid)
            question = (normalized, batch.boxes, batch.image_index)
            logits, predicted_iou = self._model(*question)
        loss, terms = self._loss(logits, predicted_iou, batch.target, batch.tokens)
        if self._teacher is None:
            return loss, terms
        with autocast(self.config.precision, self._device):
            taught = self._teacher.masks(*question, batch.folds)
        imitation = self._teacher.loss(logits, taught)
        return self._teacher.joined(loss, imitation), {**terms, "imitation": imitation.detach()}

    def _log_terms(self) -> dict[str, float]:
        self._terms.check_finite("norm", self._step)
        means = self._processes.mean(self._terms.read())
        self._log.write("step", step=self._step, **means)
        return means

    def validate(self) -> ValidationScores:
        """Score the present weights, or their running mean if there is one."""
        self._terms.check_finite("norm", self._step)
        if self._processes.count > 1:
            self._processes.require_equal("weights", self.weights_sha256())
        with self._average.applied(), uncompiled(self.config.compile):
            size = self.architecture.input_size
            scores = validate(self.stage.deployed(), self._validation, size, self._processes)
        self._log.write(
            "validation", step=self._step, selection=scores.selection,
            own_box=scores.own_box, whole_image=scores.whole_image,
        )  # fmt: skip
        return scores

    def _keep_if_best(self, scores: ValidationScores) -> None:
        if not self.stage.settled():
            return
        if scores.selection <= self._best:
            self._validations_without_gain += 1
            return
        before, self._best = self._best, scores.selection
        self._validations_without_gain = 0
        if not self._save(BEST):
            self._best = before  # the file on the disk still is the one before

    def _save(self, name: str) -> bool:
        """Store a checkpoint; when that fails, say so, keep the one before, and train on."""
        failed = False
        try:
            self._write(name)
        except CheckpointError as error:
            print(f"{error}; the checkpoint before it stays, training goes on", file=sys.stderr)
            self._log.write("not_saved", step=self._step, reason=str(error))
            failed = True
        return not self._processes.any(failed)

    def _write(self, name: str) -> None:
        self._terms.check_finite("norm", self._step)
        if self._processes.is_writer:
            save_checkpoint(self.folder, name, self._state(name))

    def _state(self, name: str) -> dict[str, Any]:
        """Return a checkpoint; ``model`` holds the averaged weights, which later stages read."""
        state: dict[str, Any] = {
            "stage": self.stage.name,
            "step": self._step,
            "best": self._best,
            "validations_without_gain": self._validations_without_gain,
            "architecture": self.architecture.to_dict(),
            "config": _plain(self.config.to_dict()),
            "model": self._averaged_weights(),
            "stage_state": self.stage.extra_state(),
            "lineage": self._lineage,
        }
        if name == LATEST:  # torch.save stores what `model` shares with these once
            state["weights_now"] = self.stage.model.state_dict()
            state["average"] = self._average.state_dict()
            state["optimizers"] = [optimizer.state_dict() for optimizer in self._optimizers]
        return state

    def _averaged_weights(self) -> dict[str, Tensor]:
        return {**self.stage.model.state_dict(), **self._average.state_dict()}

    def _progress(self) -> ProgressBar:
        shown = self._processes.is_writer
        return ProgressBar(self.stage.name, self.config.steps, self._step, shown=shown)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
