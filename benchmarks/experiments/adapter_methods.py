"""Methods to adapt one base, each tuned with the same number of trials, with several seeds.

The small SAM of `adapter_learning`, pretrained on phantoms, is adapted to the adults' X-rays:
decoder only, in full, by LoRA, and by AdaLoRA with one final budget, distributed by importance,
equally, or at random. Each method chooses one of the same learning rates on `val` with a seed that
is not counted. Then it runs with the other seeds. Differences from LoRA are paired by X-ray and
averaged over seeds, with intervals by patient. The budget is small (2 of 6 triplets a slice), so
its distribution matters. Existing runs in ``--out`` are not trained again.

    python -m benchmarks.experiments.adapter_methods --data DATA --out runs/adapters
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.experiments.adapter_learning import make_base, run_config
from benchmarks.processor import processor_name
from training.adapters.adapted_model import merge_adapters
from training.config import RunConfig
from training.data.dataset import LabelledXray
from training.evaluation.statistics import compare_paired, mean_interval
from training.run.assembly import batch_source
from training.run.loop import TrainingLoop
from training.run.run import Run
from training.run.selection import load_training_xrays, load_validation_xrays
from training.run.validation import dice_of_each
from training.stages.base import load_base
from training.stages.baseline_stages import build_stage1

_TRIPLETS: Mapping[str, Any] = {"optimizer.singular_rate": 16.0}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "LoRA": {"adaptation.method": "lora"},
    "decoder only": {"adaptation.method": "decoder_only"},
    "every weight": {"adaptation.method": "full"},
    "AdaLoRA": _TRIPLETS,
    "uniform ranks": {**_TRIPLETS, "adalora.allocation": "uniform"},
    "random ranks": {**_TRIPLETS, "adalora.allocation": "random"},
}
"""The methods; the others are compared with the first."""

TUNING_SEED = 99


@dataclass(frozen=True)
class Summary:
    """One method over its seeds.

    Attributes:
        way: One of `WAYS`.
        rate: The learning rate that `val` chose.
        trainable: Number of trained parameters.
        dice: Mean Dice of X-rays, boxes and seeds.
        sd: Standard deviation of that mean over the seeds.
        difference: Mean difference from the first way, paired by X-ray.
        interval: 95 % interval of it, by patient.
        wilcoxon_p: p of the Wilcoxon test of the same differences, by X-ray.
    """

    way: str
    rate: float
    trainable: int
    dice: float
    sd: float
    difference: float
    interval: tuple[float, float] | None
    wilcoxon_p: float


class Trials:
    """Runs from one base, trained on demand and stored."""

    def __init__(self, data: Path, out: Path, steps: int, ranks: tuple[int, int]) -> None:
        """Keep X-rays, a folder for the runs, steps, and the initial and final ranks of a slice."""
        self._data, self._out, self._steps, self._ranks = data, out, steps, ranks
        first = run_config("stage1", data, steps, {})
        self.train, self.val = load_training_xrays(first.data), load_validation_xrays(first.data)

    def result(self, way: str, rate: float, seed: int) -> dict[str, Any]:
        """Return the Dice of each X-ray, own box and whole image, and the trained parameters."""
        first, last = self._ranks
        place = f"{way}-{first}-{last}-{self._steps}-{rate:g}-{seed}".replace(" ", "_")
        folder = self._out / "methods" / place
        file = folder / "result.json"
        if not file.exists():
            changes = {
                **WAYS[way], "optimizer.learning_rate": rate, "seed": seed, "lora.rank": last,
                "adalora.initial_rank": first, "adalora.target_rank": last,
            }  # fmt: skip
            found = self._train(run_config("stage1", self._data, self._steps, changes), folder)
            file.write_text(json.dumps(found), encoding="utf-8")
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return result

    def _train(self, config: RunConfig, folder: Path) -> dict[str, Any]:
        torch.manual_seed(config.seed)
        start = load_base(self._out / "base")
        stage = build_stage1(start.model, config)
        trainable = sum(p.numel() for _, p in stage.named_parameters())
        source = batch_source(config, start.architecture, self.train)
        folder.mkdir(parents=True, exist_ok=True)
        cpu = torch.device("cpu")
        TrainingLoop(Run(config, start.architecture, stage, source, self.val, folder, cpu)).run()
        kept = load_base(folder).model
        merge_adapters(kept)
        dices = dice_of_each(kept, self.val, start.architecture.input_size)
        return {"dices": [statistics.mean(pair) for pair in dices], "trainable": trainable}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing in ``--out``, print the table and one line of JSON."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    make_base(options.data, options.phantoms, options.base_steps, options.out / "base")
    trials = Trials(options.data, options.out, options.steps, (options.initial_rank, options.rank))
    print(f"{processor_name()}, one of {os.cpu_count()} cores; {len(trials.train)} X-rays, "
          f"{len(trials.val)} of val, {options.steps} steps of 8, rank {options.rank} (from "
          f"{options.initial_rank}), {options.seeds} seeds, {len(options.rates)} trials "
          "each")  # fmt: skip
    print(f"{'way':<16}{'rate':>8}{'trainable':>11}{'Dice':>8}{'SD':>8}{'difference':>12}"
          f"{'95 % interval':>22}{'p':>8}", flush=True)  # fmt: skip
    first: list[float] = []
    table = []
    for way in WAYS:
        tried = {r: np.mean(trials.result(way, r, TUNING_SEED)["dices"]) for r in options.rates}
        rate = max(tried, key=lambda r: tried[r])
        results = [trials.result(way, rate, seed) for seed in range(options.seeds)]
        of_xray = [statistics.mean(one) for one in zip(*(r["dices"] for r in results), strict=True)]
        first = first or of_xray
        table.append(_summary(way, rate, results, of_xray, first, trials.val))
        _print(table[-1])
    print(json.dumps([asdict(one) for one in table]))
    return 0


def _summary(
    way: str,
    rate: float,
    results: Sequence[Mapping[str, Any]],
    of_xray: Sequence[float],
    first: Sequence[float],
    xrays: Sequence[LabelledXray],
) -> Summary:
    means = [statistics.mean(result["dices"]) for result in results]
    of_patient = defaultdict(list)
    for xray, own, other in zip(xrays, of_xray, first, strict=True):
        of_patient[xray.source, xray.group].append(own - other)
    paired = compare_paired(of_xray, first)
    return Summary(
        way, rate, results[0]["trainable"], statistics.mean(means),
        statistics.stdev(means) if len(means) > 1 else 0.0, paired.mean,
        mean_interval(np.array([np.mean(one) for one in of_patient.values()])), paired.wilcoxon_p,
    )  # fmt: skip


def _print(one: Summary) -> None:
    low, high = one.interval or (float("nan"), float("nan"))
    print(f"{one.way:<16}{one.rate:>8g}{one.trainable:>11,}{one.dice:>8.4f}{one.sd:>8.4f}"
          f"{one.difference:>+12.4f}{f'[{low:+.4f}, {high:+.4f}]':>22}{one.wilcoxon_p:>8.2g}",
          flush=True)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.adapter_methods")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/adapters"))
    parser.add_argument("--base-steps", type=int, default=300)
    parser.add_argument("--phantoms", type=int, default=300)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rank", type=int, default=2, help="of a slice, at the end, on average")
    parser.add_argument("--initial-rank", type=int, default=6, help="of triplets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=(3e-4, 1e-3, 3e-3, 1e-2))
    return parser


if __name__ == "__main__":
    sys.exit(main())
