"""The training loop of all stages."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from training.acceleration.compilation import uncompiled
from training.acceleration.mixed_precision import slow_precision_warning
from training.checkpoint import BEST, LATEST, save_checkpoint, weights_sha256
from training.data.batches import TrainingBatch
from training.data.prefetching import prefetched
from training.errors import CheckpointError
from training.run.determinism import deterministic_algorithms
from training.run.progress import ProgressBar
from training.run.run import Run
from training.run.run_log import RunLog
from training.run.step import TrainingStep
from training.run.step_metrics import StepMetrics
from training.run.validation import ValidationScores, validate

_LOG_EVERY_STEPS = 20


class TrainingLoop:
    """Runs a stage from its first or its last stored step to its end."""

    def __init__(self, run: Run) -> None:
        """Prepare a run at its first step."""
        self.config = run.config
        self.stage = run.stage
        self._run = run
        self._log = RunLog(
            run.folder,
            writes=run.processes.is_writer,
            tensorboard=run.config.tensorboard,
            mlflow=run.config.mlflow,
        )
        self.training_step = TrainingStep(run)
        self._terms = StepMetrics()
        self._step = 0
        self._best = -1.0
        self._validations_without_gain = 0
        self._waited_s = 0.0

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
        try:
            self.training_step.load_state(state)
        except ValueError as error:
            raise CheckpointError(
                f"{name} was written with other optimizers than this run's settings make: {error}"
            ) from error
        self._step, self._best = state["step"], state["best"]
        self._validations_without_gain = state.get("validations_without_gain", 0)
        self._log.write("resume", step=self._step, checkpoint=name)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> ValidationScores | None:
        """Train to the end, or until ``should_stop`` is true after a step.

        Returns:
            The last validation, or None when stopped before the end; a checkpoint is written in
            both cases.

        Raises:
            CheckpointError: The last checkpoint cannot be written.
            FloatingPointError: A gradient is not finite; no checkpoint has its step.
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
                if self._run.processes.any(should_stop()) and self._step < self.config.steps:
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
        if self._run.processes.is_writer:
            self.stage.finish(self._run.folder)
        return scores

    def weights_sha256(self) -> str:
        """Return the hash of the run's weights, or of their running mean if there is one.

        Equal runs have equal hashes.
        """
        return weights_sha256(self.training_step.averaged_weights())

    def _warn_of_slow_precision(self) -> None:
        warning = slow_precision_warning(self.config.precision, self._run.device)
        if warning is not None and self._run.processes.is_writer:
            print(f"warning: {warning}", file=sys.stderr)
            self._log.write("warning", step=self._step, reason=warning)

    def _batches(self) -> Iterator[TrainingBatch]:
        if self._patience_is_over():
            return
        steps = range(self._step, self.config.steps)
        started = time.perf_counter()
        for batch in prefetched(
            self._run.source.batch, steps, self.config.data.workers, self._run.device.type == "cuda"
        ):
            self._waited_s = time.perf_counter() - started
            yield batch
            started = time.perf_counter()

    def _is_due(self, every_steps: int) -> bool:
        return self._step % every_steps == 0 or self._step == self.config.steps

    def _patience_is_over(self) -> bool:
        return 0 < self.config.patience <= self._validations_without_gain

    def train_step(self, batch: TrainingBatch) -> None:
        """Make the next step on a batch: gradients, ranks, weights, running mean, numbers."""
        terms = self.training_step(self._step, batch)
        self._terms.add({**terms, "wait_s": self._waited_s})
        self._step += 1

    def _log_terms(self) -> dict[str, float]:
        self._terms.check_finite("norm", self._step)
        means = self._run.processes.mean(self._terms.read())
        self._log.write("step", step=self._step, **means)
        return means

    def validate(self) -> ValidationScores:
        """Score the current weights, or their running mean if there is one."""
        self._terms.check_finite("norm", self._step)
        if self._run.processes.count > 1:
            self._run.processes.require_equal("weights", self.weights_sha256())
        with self.training_step.average.applied(), uncompiled(self.config.compile):
            size = self._run.architecture.input_size
            scores = validate(
                self.stage.deployed(), self._run.validation, size, self._run.processes
            )
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
            self._best = before  # the file on disk is still the previous one

    def _save(self, name: str) -> bool:
        """Store a checkpoint; if that fails, warn, keep the previous one, and continue."""
        failed = False
        try:
            self._write(name)
        except CheckpointError as error:
            print(f"{error}; the checkpoint before it stays, training goes on", file=sys.stderr)
            self._log.write("not_saved", step=self._step, reason=str(error))
            failed = True
        return not self._run.processes.any(failed)

    def _write(self, name: str) -> None:
        self._terms.check_finite("norm", self._step)
        if self._run.processes.is_writer:
            save_checkpoint(self._run.folder, name, self._state(name))

    def _state(self, name: str) -> dict[str, Any]:
        """Return a checkpoint; ``model`` holds the averaged weights, which later stages read."""
        state: dict[str, Any] = {
            "stage": self.stage.name,
            "step": self._step,
            "best": self._best,
            "validations_without_gain": self._validations_without_gain,
            "architecture": self._run.architecture.to_dict(),
            "config": self.config.to_dict(),
            "model": self.training_step.averaged_weights(),
            "stage_state": self.stage.extra_state(),
            "lineage": list(self._run.lineage),
            **self._run.record.to_dict(),
        }
        if name == LATEST:  # torch.save stores tensors shared with `model` once
            state["weights_now"] = self.stage.model.state_dict()
            state |= self.training_step.state()
        return state

    def _progress(self) -> ProgressBar:
        shown = self._run.processes.is_writer
        return ProgressBar(self.stage.name, self.config.steps, self._step, shown=shown)
