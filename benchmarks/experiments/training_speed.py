"""The overhead of the training loop, the rate of batches, and the memory of ViT-B.

Each step of `pretrain`, `stage1` and `stage2` is timed in turn with a bare step of a copy of the
same model on the same batch: forward, loss, backward and one AdamW step of PyTorch's defaults,
nothing else. Stage 2 is also compared with the bare step of stage 1's float model, which shows the
cost of fake quantization.

    python -m benchmarks.experiments.training_speed                 # phantoms, the default model
    python -m benchmarks.experiments.training_speed --memory vit_b  # one step of stage 1 at 1024 px
"""

from __future__ import annotations

import argparse
import copy
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.experiments import training_runs
from benchmarks.processor import processor_name
from model_store.architecture import build_sam, sam_config
from model_store.sam import PromptableSam
from training.acceleration.activation_checkpointing import recompute_encoder_blocks
from training.acceleration.mixed_precision import autocast
from training.config import RunConfig, load_config
from training.data.batches import BatchSource, TrainingBatch
from training.data.dataset import LabelledXray
from training.data.prefetching import prefetched
from training.losses import MaskLoss
from training.phantom.dataset import write_phantom_dataset
from training.run.assembly import batch_source
from training.run.loop import TrainingLoop
from training.run.run import Run
from training.run.selection import load_training_xrays
from training.stages.baseline_stages import build_stage1
from training.stages.qat_stage import QatStage
from training.stages.stage import PretrainStage, Stage

CPU = torch.device("cpu")
BATCHES = 4


def recipe(stage: str, root: Path, batch_size: int, precision: str) -> RunConfig:
    """Return the default model's recipe on phantoms, with the served sizes in every stage."""
    changes = {
        "data.root": str(root), "data.phantoms": 0, "data.workers": 0, "batch_size": batch_size,
        "precision": precision,
    }  # fmt: skip
    return replace(
        training_runs.recipe(stage, changes), model=training_runs.recipe("pretrain", {}).model
    )


def make_stage(config: RunConfig, source: BatchSource) -> Stage:
    """Return a stage of the default model with random weights."""
    model = build_sam(config.model)
    if config.stage == "pretrain":
        return PretrainStage(model)
    made = replace(config, stage="stage1", steps=10**6)
    stage = build_stage1(model, made)
    if config.stage == "stage1":
        return stage
    quantized = QatStage(stage.model, config.qat)
    quantized.calibrate(source)
    return quantized


def bare_step(model: PromptableSam, config: RunConfig) -> Callable[[TrainingBatch], None]:
    """Return one training step without the loop's additions."""
    model = copy.deepcopy(model).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    criterion = MaskLoss(config.loss, config.loss_size)

    def step(batch: TrainingBatch) -> None:
        optimizer.zero_grad()
        with autocast(config.precision, CPU):
            normalized = model.normalize(batch.pixels, batch.valid)
            logits, quality = model(normalized, batch.boxes, batch.image_index)
        loss, _ = criterion(logits, quality, batch.target, batch.tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def median_seconds(
    steps: dict[str, Callable[[TrainingBatch], None]], batches: list[TrainingBatch], rounds: int
) -> dict[str, list[float]]:
    """Time the steps in turn, so that a busy machine slows all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step(batches[turn % len(batches)])
            if turn >= 2:  # the first ones allocate
                seconds[name].append(time.perf_counter() - started)
    return seconds


def compare_steps(root: Path, batch_size: int, precision: str, rounds: int) -> None:
    """Print each stage's step and the bare steps."""
    print(f"{'stage':<9} {'step ms':>8} {'bare ms':>8} {'ratio':>6} "
          f"{'float model ms':>15} {'ratio':>6}")  # fmt: skip
    float_model: PromptableSam | None = None
    for name in ("pretrain", "stage1", "stage2"):
        config = recipe(name, root, batch_size, precision)
        xrays = load_training_xrays(config.data)
        source = batch_source(config, config.model, xrays)
        batches = [source.batch(place) for place in range(BATCHES)]
        stage = make_stage(config, source)
        steps = {"bare": bare_step(stage.model, config)}
        if name == "stage1":
            float_model = copy.deepcopy(stage.model)
        if name == "stage2" and float_model is not None:
            steps["float"] = bare_step(float_model, config)
        with tempfile.TemporaryDirectory() as folder:
            loop = TrainingLoop(
                Run(config, config.model, stage, source, xrays[:1], Path(folder), CPU)
            )
            stage.model.train()
            steps["loop"] = loop.train_step
            found = median_seconds(steps, batches, rounds)
        print(_line(name, found), flush=True)


def _line(name: str, found: dict[str, list[float]]) -> str:
    def ratio(other: str) -> float:
        pairs = zip(found["loop"], found[other], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    ms = {key: 1e3 * statistics.median(values) for key, values in found.items()}
    line = f"{name:<9} {ms['loop']:>8.0f} {ms['bare']:>8.0f} {ratio('bare'):>6.2f}"
    if "float" in found:
        line += f" {ms['float']:>15.0f} {ratio('float'):>6.2f}"
    return line


def compare_loading(root: Path, batch_size: int, precision: str, workers: Iterable[int]) -> None:
    """Print images per second without and with the model."""
    config = recipe("stage1", root, batch_size, precision)
    xrays = load_training_xrays(config.data)
    source = batch_source(config, config.model, xrays)
    stage = make_stage(config, source)
    stage.model.train()
    print(f"\n{'workers':>7} {'images/s, no model':>19} {'with the model':>15} {'waiting':>8}")
    with tempfile.TemporaryDirectory() as folder:
        loop = TrainingLoop(Run(config, config.model, stage, source, xrays[:1], Path(folder), CPU))
        for count in workers:
            alone, _ = _images_per_second(source, count, batch_size, lambda batch: None)
            both, waiting = _images_per_second(source, count, batch_size, loop.train_step)
            print(f"{count:>7} {alone:>19.1f} {both:>15.1f} {waiting:>8.1%}", flush=True)


def _images_per_second(
    source: BatchSource, workers: int, batch_size: int, use: Callable[[TrainingBatch], None]
) -> tuple[float, float]:
    """Return images per second, and the share of the time spent waiting for batches."""
    steps, warm = 12, 3
    started = waited = 0.0
    batches = iter(prefetched(source.batch, range(steps + warm), workers))
    for step in range(steps + warm):
        if step == warm:
            started, waited = time.perf_counter(), 0.0
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        use(batch)
    seconds = time.perf_counter() - started
    return steps * batch_size / seconds, waited / seconds


def measure_memory(variant: str, recompute: bool) -> None:
    """Make one step of stage 1 at the variant's own size, batch 1, random weights, float32."""
    changes = {"precision": "fp32", "batch_size": 1, "data.phantoms": 0, "data.workers": 0}
    config = load_config(training_runs.RECIPES / "sam_vit_b_stage1.toml", changes)
    architecture = sam_config(variant)
    stage = build_stage1(build_sam(architecture), config)
    if recompute:
        recompute_encoder_blocks(stage.model)
    with tempfile.TemporaryDirectory() as folder:
        xrays = phantom_xrays(Path(folder), count=1, longest_side=1024)
        source = batch_source(config, architecture, xrays)
        loop = TrainingLoop(Run(config, architecture, stage, source, xrays, Path(folder), CPU))
        stage.model.train()
        before = peak_gib()
        started = time.perf_counter()
        loop.train_step(source.batch(0))
        seconds = time.perf_counter() - started
    size = architecture.input_size
    kept = "blocks computed twice" if recompute else "all activations kept"
    print(f"{variant}, {size} px, stage1, batch 1, {config.prompts_per_image} boxes, fp32, {kept}:")
    print(f"peak {peak_gib():.2f} GiB ({before:.2f} before the step), {seconds:.0f} s a step")


def phantom_xrays(root: Path, count: int, longest_side: int) -> list[LabelledXray]:
    """Return phantoms as training X-rays."""
    write_phantom_dataset(root, {"train": count}, longest_side=longest_side)
    return load_training_xrays(replace(recipe("stage1", root, 1, "fp32").data, cached_side=1024))


def peak_gib() -> float:
    """Return the peak memory of this process, from the system."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    """Print the requested figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.training_speed", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each kind")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", metavar="VARIANT", help="measure its memory instead")
    parser.add_argument("--keep-activations", action="store_true", help="with --memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{processor_name()}, {arguments.threads} threads of {os.cpu_count()} cores")
    if arguments.memory:
        measure_memory(arguments.memory, not arguments.keep_activations)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_phantom_dataset(root, {"train": 48}, longest_side=448)
        compare_steps(root, arguments.batch_size, arguments.precision, arguments.rounds)
        compare_loading(root, arguments.batch_size, arguments.precision, (0, 1, 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
