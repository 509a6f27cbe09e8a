"""Dice on ``val`` against milliseconds on this CPU, by model size.

Every candidate trains from scratch for the same time with the recipe of
``training/configs/cxr_lung_tiny_pretrain.toml`` at a constant rate, and is then calibrated,
quantized and timed from X-ray to mask. Short runs favour small models: the table shows which size
learns fastest and its cost, not the final quality.

    python -m benchmarks.experiments.model_size --data DATA --minutes 4
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.experiments import training_runs
from benchmarks.processor import processor_name
from model_store.architecture import SamConfig, build_sam, sam_config
from model_store.predictor import PredictionRequest, Predictor
from training.config import RunConfig
from training.data.dataset import LabelledXray
from training.export import write_deployed
from training.run.assembly import batch_source
from training.run.loop import TrainingLoop
from training.run.run import Run
from training.run.selection import load_training_xrays, load_validation_xrays
from training.stages.qat_stage import QatStage
from training.stages.stage import PretrainStage

TIMED_IMAGES = 15

CANDIDATES: dict[str, SamConfig] = {
    "256 px, width 128, depth 6": sam_config("vit_t", embed_dim=128, depth=6, num_heads=4),
    "256 px, width 192, depth 8": sam_config("vit_t"),
    "256 px, width 256, depth 8": sam_config("vit_t", embed_dim=256, num_heads=8),
    "256 px, width 192, depth 12": sam_config("vit_t", depth=12),
    "384 px, width 192, depth 8": sam_config(
        "vit_t", input_size=384, window_size=12, global_attn_indexes=(3, 7)
    ),
    "384 px, width 256, depth 10": sam_config(
        "vit_t",
        input_size=384,
        embed_dim=256,
        depth=10,
        num_heads=8,
        window_size=12,
        global_attn_indexes=(3, 6, 9),
    ),
    "512 px, width 192, depth 8": sam_config(
        "vit_t", input_size=512, window_size=16, global_attn_indexes=(3, 7)
    ),
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    size: str
    parameters: int
    stored_megabytes: float
    images_seen: int
    dice: float
    milliseconds: float


def measure(
    label: str,
    model_config: SamConfig,
    recipe: RunConfig,
    validation: list[LabelledXray],
    seconds: float,
) -> Row:
    """Train one candidate for ``seconds``, then quantize and time it."""
    torch.manual_seed(recipe.seed)
    config = replace(
        recipe,
        model=model_config,
        loss_size=model_config.input_size // 2,
        data=replace(recipe.data, cached_side=9 * model_config.input_size // 8),
        optimizer=replace(recipe.optimizer, decay_share=0.0, warmup_steps=50, ema_decay=0.98),
    )
    stage = PretrainStage(build_sam(model_config))
    source = batch_source(config, model_config, load_training_xrays(config.data))
    with tempfile.TemporaryDirectory() as folder:
        loop = TrainingLoop(
            Run(config, model_config, stage, source, validation, Path(folder), torch.device("cpu"))
        )
        started = time.perf_counter()
        stopped = loop.run(lambda: time.perf_counter() - started > seconds)
        scores = stopped or loop.validate()
        steps = loop.step
        parameters = sum(p.numel() for p in stage.model.parameters())
        quantized = QatStage(stage.model, config.qat)
        quantized.calibrate(source)
        stored = write_deployed(
            quantized.model, model_config, Path(folder), name="candidate", version="1"
        )
        milliseconds = time_predictor(Predictor.load(stored.folder, "cpu"), validation)
    return Row(
        label, parameters, stored.size_bytes / 1e6, steps * config.batch_size, scores.selection,
        milliseconds,
    )  # fmt: skip


def time_predictor(predictor: Predictor, xrays: list[LabelledXray]) -> float:
    """Return the median milliseconds from X-ray to mask, one box, after a warm-up."""
    times: list[float] = []
    for xray in xrays[: TIMED_IMAGES + 3]:
        started = time.perf_counter()
        predictor.predict(PredictionRequest(np.ascontiguousarray(xray.image)))
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[3:])


def main() -> int:
    """Print the table, and one JSON line last."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.model_size", description=__doc__
    )
    parser.add_argument("--data", required=True, help="data set with manifest.csv")
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of each size")
    arguments = parser.parse_args()
    changes = {
        "data.root": arguments.data, "validate_every_steps": 10**9, "batch_size": 16,
        "data.workers": 1,
    }  # fmt: skip
    recipe = training_runs.recipe("pretrain", changes)
    validation = load_validation_xrays(recipe.data)
    rows: list[Row] = []
    print(f"{processor_name()}; {arguments.minutes} minutes of training each", flush=True)
    for label, model_config in CANDIDATES.items():
        row = measure(label, model_config, recipe, validation, 60 * arguments.minutes)
        rows.append(row)
        print(
            f"{row.size:<28} {row.parameters / 1e6:5.2f} M  {row.stored_megabytes:5.2f} MB  "
            f"{row.images_seen:6d} images  Dice {row.dice:.4f}  {row.milliseconds:6.1f} ms",
            flush=True,
        )
    print(json.dumps({"machine": processor_name(), "rows": [vars(row) for row in rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
