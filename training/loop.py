"""The one training loop of all stages."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model_store.architecture import SamConfig
from training.batches import BatchSource, TrainingBatch, prefetched
from training.checkpoint import BEST, LATEST, load_latest, save_checkpoint
from training.config import RunConfig
from training.dataset import LabelledXray
from training.ema import WeightAverage
from training.losses import MaskLoss
from training.optimizers import build_optimizers, rate_share, set_rates
from training.run_log import RunLog
from training.stages import Stage
from training.validation import ValidationScores, validate

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
    ) -> None:
        """Prepare a run that writes into ``folder``; ``lineage`` tells what its base was."""
        self._lineage = list(lineage)
        self.config = config
        self.architecture = architecture
        self.stage = stage
        self.folder = folder
        self._source = source
        self._validation = validation
        self._device = device
        self._log = RunLog(folder)
        self._loss = MaskLoss(config.loss, config.loss_size)
        parameters = list(stage.named_parameters())
        self._parameters = [parameter for _, parameter in parameters]
        self._optimizers = build_optimizers(parameters, config.optimizer)
        self._average = WeightAverage(parameters, config.optimizer.ema_decay)
        self._step = 0
        self._best = -1.0

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self._step

    def resume(self) -> bool:
        """Continue from the newest readable checkpoint; False when there is none."""
        found = load_latest(self.folder)
        if found is None:
            return False
        state, path = found
        self.stage.load_extra_state(state["stage_state"])
        self.stage.model.load_state_dict(state["weights_now"])
        self._average.load_state_dict(state["average"])
        for optimizer, stored in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self._step, self._best = state["step"], state["best"]
        self._log.write("resume", step=self._step, checkpoint=path.name)
        return True

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> ValidationScores:
        """Train to the end (or until ``should_stop``), and return the last validation."""
        self._log.write("start", step=self._step, config=self.config.to_dict())
        self.stage.model.train()
        with _progress() as bar:
            task = bar.add_task(self.stage.name, total=self.config.steps, completed=self._step)
            steps = range(self._step, self.config.steps)
            for batch in prefetched(self._source.batch, steps, self.config.data.workers):
                if should_stop():
                    break
                terms = self._train_step(batch)
                self._step += 1
                bar.update(task, completed=self._step, description=_describe(self.stage, terms))
                if self._step % _LOG_EVERY_STEPS == 0:
                    self._log.write("step", step=self._step, **terms)
                if self._step % self.config.validate_every_steps == 0:
                    self._validate_and_keep_best()
                if self._step % self.config.checkpoint_every_steps == 0:
                    self._save(LATEST)
        scores = self._validate_and_keep_best()
        self._save(LATEST)
        self._log.write("end", step=self._step, best=self._best)
        if self._step == self.config.steps:
            self.stage.finish(self.folder)
        return scores

    def _train_step(self, batch: TrainingBatch) -> dict[str, float]:
        started = time.perf_counter()
        cfg = self.config.optimizer
        share = rate_share(self._step, self.config.steps, cfg)
        set_rates(self._optimizers, share)
        loss, terms = self._forward(batch)
        penalty = self.stage.penalty()
        if penalty is not None:
            terms["penalty"] = penalty.item()
            loss = loss + penalty
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.stage.after_backward(self._step)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, cfg.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient is not finite at step {self._step}")
        for optimizer in self._optimizers:
            optimizer.step()
        terms.update(self.stage.after_step(self._step))
        self._average.update(self._step)
        seconds = time.perf_counter() - started
        return {"loss": loss.item(), **terms, "norm": norm.item(), "rate": share,
                "step_s": seconds}  # fmt: skip

    def _forward(self, batch: TrainingBatch) -> tuple[torch.Tensor, dict[str, float]]:
        model, device = self.stage.model, self._device
        bf16 = self.config.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            normalized = model.normalize(batch.pixels.to(device), batch.valid.to(device))
            logits, predicted_iou = model(
                normalized, batch.boxes.to(device), batch.image_index.to(device)
            )
        return self._loss(logits, predicted_iou, batch.target.to(device), batch.tokens.to(device))

    def _validate_and_keep_best(self) -> ValidationScores:
        with self._average.applied():
            scores = validate(self.stage.model, self._validation, self.architecture.input_size)
            if self.stage.settled() and scores.selection > self._best:
                self._best = scores.selection
                self._save(BEST)
        self._log.write(
            "validation", step=self._step, selection=scores.selection,
            own_box=scores.own_box, whole_image=scores.whole_image,
        )  # fmt: skip
        return scores

    def _save(self, name: str) -> None:
        """Store a checkpoint; ``model`` holds the averaged weights, which later stages read."""
        with self._average.applied():
            averaged = {k: v.clone() for k, v in self.stage.model.state_dict().items()}
        state: dict[str, Any] = {
            "stage": self.stage.name,
            "step": self._step,
            "best": self._best,
            "architecture": self.architecture.to_dict(),
            "config": _plain(self.config.to_dict()),
            "model": averaged,
            "stage_state": self.stage.extra_state(),
            "lineage": self._lineage,
        }
        if name == LATEST:
            state["weights_now"] = self.stage.model.state_dict()
            state["average"] = self._average.state_dict()
            state["optimizers"] = [optimizer.state_dict() for optimizer in self._optimizers]
        save_checkpoint(self.folder, name, state)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _describe(stage: Stage, terms: dict[str, float]) -> str:
    return f"{stage.name} loss {terms['loss']:.4f}"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
