"""Short runs from one base that differ in one setting: which adapter learns faster, and why.

A small SAM is pretrained on phantoms. Then it is adapted to the adults' X-rays of DATA by LoRA, and
by AdaLoRA with one changed setting at a time, with several seeds. The output has Dice on `val`
(mean of sources and boxes), the final size of the adapters relative to the weights, and the
difference from the first variant with the same seeds.

    python -m benchmarks.experiments.adapter_learning --data DATA --out runs/adapters
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.processor import processor_name
from training.adapters.adapted_linear import AdaptedLinear
from training.adapters.adapted_model import find_layers
from training.config import RunConfig, with_settings
from training.data.dataset import LabelledXray
from training.run.assembly import batch_source, prepare_run
from training.run.loop import TrainingLoop
from training.run.run import Run
from training.run.selection import load_training_xrays, load_validation_xrays
from training.stages.base import load_base
from training.stages.baseline_stages import build_stage1

VARIANTS: Mapping[str, dict[str, Any]] = {
    "decoder alone": {"adaptation.method": "decoder_only"},
    "LoRA": {"adaptation.method": "lora"},
    "AdaLoRA": {},
    "no budget: 8 of 8": {"adalora.initial_rank": 8},
    "no penalty": {"adalora.orthogonality": 0.0},
    "no budget, no penalty": {"adalora.initial_rank": 8, "adalora.orthogonality": 0.0},
    "early cuts": {"adalora.warmup_steps": 0.05, "adalora.final_steps": 0.65},
    "alpha x 4": {"adalora.alpha": 64.0},
    "alpha x 16": {"adalora.alpha": 256.0},
    "lambda rate x 4": {"optimizer.singular_rate": 4.0},
    "lambda rate x 16": {"optimizer.singular_rate": 16.0},
    "lambda rate x 64": {"optimizer.singular_rate": 64.0},
    "normal start": {"adalora.initialization": "normal"},
    "normal start, norm": {
        "adalora.initialization": "normal", "adalora.penalty": "norm",
        "adalora.orthogonality": 0.5,
    },
    "normal start, norm, lambda rate x 16": {
        "adalora.initialization": "normal", "adalora.penalty": "norm",
        "adalora.orthogonality": 0.5, "optimizer.singular_rate": 16.0,
    },
    "lambda rate x 16, no penalty": {
        "optimizer.singular_rate": 16.0, "adalora.orthogonality": 0.0,
    },
}  # fmt: skip
"""Variants, each with one changed setting relative to lambdas at the common rate; steps of the
schedule as shares of the run."""

MODEL: dict[str, Any] = {
    "variant": "vit_t",
    "input_size": 128,
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 4,
    "prompt_dim": 64,
    "decoder_heads": 4,
    "decoder_mlp_dim": 128,
    "iou_head_hidden_dim": 32,
}

_COMMON: dict[str, Any] = {
    "batch_size": 8, "prompts_per_image": 2, "loss_size": 64, "data.workers": 0,
    "data.cached_side": 160, "data.leave_out": ["kermany"],
    "optimizer.warmup_steps": 10, "checkpoint_every_steps": 100_000,
    "validate_every_steps": 100_000,
}  # fmt: skip


def run_config(stage: str, data: Path, steps: int, changes: Mapping[str, Any]) -> RunConfig:
    """Return a run, with the shares of its schedule converted to steps."""
    settings = {
        **_COMMON, "data.root": str(data), "adalora.warmup_steps": 0.1, "adalora.final_steps": 0.35,
        "adalora.interval_steps": 5, "optimizer.singular_rate": 1.0, **changes,
    }  # fmt: skip
    for name in ("adalora.warmup_steps", "adalora.final_steps"):
        settings[name] = round(settings[name] * steps)
    return with_settings({"stage": stage, "steps": steps, "model": dict(MODEL)}, settings)


def make_base(data: Path, phantoms: int, steps: int, folder: Path) -> None:
    """Pretrain the small SAM on phantoms alone, unless ``folder`` has it."""
    if (folder / "best.pt").exists():
        return
    sources = ["kermany", "ieee8023", "wingspan"]  # keep the fourth, because a run needs some rows
    changes = {
        "data.phantoms": phantoms, "data.leave_out": sources, "optimizer.learning_rate": 1e-3,
        "optimizer.matrix_learning_rate": 3e-3,
    }  # fmt: skip
    config = run_config("pretrain", data, steps, changes)
    prepare_run(config, None, folder, resume=False, device=torch.device("cpu")).run()


def adapt(
    config: RunConfig,
    base: Path,
    folder: Path,
    train: list[LabelledXray],
    val: Sequence[LabelledXray],
) -> dict[str, float]:
    """Adapt the base once; return Dice and the relative size of what the adapters add."""
    torch.manual_seed(config.seed)
    start = load_base(base)
    stage = build_stage1(start.model, config)
    source = batch_source(config, start.architecture, train)
    folder.mkdir(parents=True, exist_ok=True)
    loop = TrainingLoop(
        Run(config, start.architecture, stage, source, val, folder, torch.device("cpu"))
    )
    scores = loop.run()
    assert scores is not None
    return {"dice": scores.selection, "added": relative_change(stage.model)}


@torch.no_grad()
def relative_change(model: torch.nn.Module) -> float:
    """Return the norm of all adapters' products over the norm of the adapted weights."""
    layers = find_layers(model, AdaptedLinear).values()
    if not layers:
        return 0.0
    added = sum(float(layer.adapter().square().sum()) for layer in layers)
    weights = sum(float(layer.base.weight.square().sum()) for layer in layers)
    return float((added / weights) ** 0.5)


def main() -> None:
    """Train what is missing in ``--out`` and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/adapters"))
    parser.add_argument("--base-steps", type=int, default=300)
    parser.add_argument("--phantoms", type=int, default=300)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3, help="AdamW's peak rate")
    parser.add_argument("--only", action="append", help="variant to run; default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = arguments.out / "base"
    make_base(arguments.data, arguments.phantoms, arguments.base_steps, base)
    variants = {n: c for n, c in VARIANTS.items() if not arguments.only or n in arguments.only}
    first = run_config("stage1", arguments.data, arguments.steps, {})
    train, val = load_training_xrays(first.data), load_validation_xrays(first.data)
    print(f"{processor_name()}, one of {os.cpu_count()} cores; {len(train)} X-rays, "
          f"{len(val)} of val, {arguments.steps} steps of {first.batch_size}, "
          f"rate {arguments.rate:g}")  # fmt: skip
    print(
        f"{'variant':<30} {'Dice':>8} {'SD':>8} {'added/weights':>14} {'difference':>19}",
        flush=True,
    )
    first_dices: list[float] = []
    for name, changes in variants.items():
        found = []
        for seed in range(arguments.seeds):
            place = f"{name}-{arguments.steps}-{arguments.rate:g}-{seed}".replace(" ", "_")
            folder = arguments.out / place.replace(":", "").replace(",", "")
            result = folder / "result.json"
            if not result.exists():
                settings = {"optimizer.learning_rate": arguments.rate, **changes, "seed": seed}
                config = run_config("stage1", arguments.data, arguments.steps, settings)
                outcome = adapt(config, base, folder, train, val)
                result.write_text(json.dumps(outcome), encoding="utf-8")
            found.append(json.loads(result.read_text(encoding="utf-8")))
        dices = [entry["dice"] for entry in found]
        first_dices = first_dices or dices
        gains = [dice - other for dice, other in zip(dices, first_dices, strict=True)]
        added = statistics.mean(entry["added"] for entry in found)
        print(f"{name:<30} {statistics.mean(dices):>8.4f} {_sd(dices):>8.4f} {added:>14.4f} "
              f"{statistics.mean(gains):>+8.4f} (SD {_sd(gains):.4f})", flush=True)  # fmt: skip


def _sd(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
