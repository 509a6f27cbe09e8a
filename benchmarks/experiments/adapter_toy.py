"""A toy problem with known ranks: does AdaLoRA find them?

Six frozen linear layers must learn additional matrices of rank 8, 4, 2, 0, 0 and 0 from noisy
outputs, so the loss cannot fall below the noise. The budget falls from 12 triplets a layer to 3 on
average; 14 in total would suffice. Our adapters, allocator and optimizer groups are compared with
peft's AdaLoRA and LoRA, at the same rates and steps. One setting changes at a time.

    python -m benchmarks.experiments.adapter_toy
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.processor import processor_name
from training.adapters.adalora import AdaLoraLinear, mean_penalty
from training.adapters.config import AdaLoraConfig, LoraConfig
from training.adapters.lora import LoraLinear
from training.adapters.rank_allocator import RankAllocator
from training.optimizers.config import OptimizerConfig
from training.optimizers.groups import build_optimizers
from training.optimizers.rates import rate_share, set_rates

TRUE_RANKS = (8, 4, 2, 0, 0, 0)
WIDTH = 64
NOISE_VARIANCE = 0.015
BATCH_SIZE = 64
INITIAL_RANK, TARGET_RANK = 12, 3
NORM_WEIGHT = 0.1
"""Weight of the norm penalty, ours and peft's; our squared penalty has its default."""


@dataclass(frozen=True)
class Toy:
    """The toy problem.

    Attributes:
        weights: Frozen weights, one (D, D) for each layer.
        wanted: Matrices to add to them, (D, D) each.
    """

    weights: Sequence[Tensor]
    wanted: Sequence[Tensor]

    @classmethod
    def make(cls, seed: int) -> Toy:
        """Make random frozen weights and matrices of the true ranks, of equal norm if not 0."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        weights = [normal(WIDTH, WIDTH) / WIDTH**0.5 for _ in TRUE_RANKS]
        wanted = []
        for rank in TRUE_RANKS:
            product = normal(WIDTH, rank) @ normal(rank, WIDTH)
            wanted.append(product / product.norm() * 4 if rank else product)
        return cls(weights, wanted)

    def batch(self, step: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return inputs and noisy outputs of every layer, (B, D) each."""
        generator = torch.Generator().manual_seed(10_000 + step)
        inputs, outputs = [], []
        for weight, wanted in zip(self.weights, self.wanted, strict=True):
            values = torch.randn(BATCH_SIZE, WIDTH, generator=generator)
            noise = torch.randn(BATCH_SIZE, WIDTH, generator=generator) * NOISE_VARIANCE**0.5
            inputs.append(values)
            outputs.append(values @ (weight + wanted).T + noise)
        return inputs, outputs

    def layers(self) -> list[nn.Linear]:
        """Return the trained layers at their start."""
        layers = []
        for weight in self.weights:
            layer = nn.Linear(WIDTH, WIDTH, bias=False)
            layer.weight.data.copy_(weight)
            layers.append(layer)
        return layers


@dataclass(frozen=True)
class Outcome:
    """The result of a run: loss on new data (noise included), and ranks by layer."""

    loss: float
    ranks: tuple[int, ...]


def run_ours(toy: Toy, steps: int, rate: float, changes: Mapping[str, Any]) -> Outcome:
    """Train our adapters; ``changes`` are settings of ``adalora`` and ``optimizer``."""
    settings = {
        "initial_rank": INITIAL_RANK, "target_rank": TARGET_RANK, "alpha": float(TARGET_RANK),
        "warmup_steps": steps // 10, "final_steps": steps * 2 // 5, "interval_steps": 5,
        "targets": ("proj",), **_of(changes, "adalora"),
    }  # fmt: skip
    config = AdaLoraConfig(**settings)
    layers = {str(i): AdaLoraLinear(one, config, ("proj",)) for i, one in enumerate(toy.layers())}
    allocator = RankAllocator(layers, config, steps)
    named = [(f"{n}.{k}", p) for n, m in layers.items() for k, p in m.named_parameters()]
    step = _Step(toy, list(layers.values()), named, steps, rate, _of(changes, "optimizer"))
    for place in range(steps):
        penalty = config.orthogonality * mean_penalty(layers.values(), config.penalty)
        step(place, penalty, allocator.observe_gradients)
        if allocator.is_due(place):
            allocator.allocate(place)
    ranks = tuple(int(layer.mask.sum()) for layer in layers.values())
    return Outcome(step.fresh_loss(), ranks)


def run_lora(toy: Toy, steps: int, rate: float, rank: int) -> Outcome:
    """Train LoRA of one rank everywhere."""
    config = LoraConfig(rank=rank, alpha=float(rank), targets=("proj",))
    layers = [LoraLinear(one, config, ("proj",)) for one in toy.layers()]
    named = [(f"{n}.{k}", p) for n, m in enumerate(layers) for k, p in m.named_parameters()]
    step = _Step(toy, layers, named, steps, rate, {})
    for place in range(steps):
        step(place, None, lambda: None)
    return Outcome(step.fresh_loss(), (rank,) * len(layers))


def run_peft(toy: Toy, steps: int, rate: float) -> Outcome:
    """Train peft's AdaLoRA by the same steps."""
    from peft import AdaLoraConfig as PeftConfig
    from peft import get_peft_model

    config = PeftConfig(
        init_r=INITIAL_RANK, target_r=TARGET_RANK, tinit=steps // 10, tfinal=steps * 2 // 5,
        deltaT=5, total_step=steps, lora_alpha=INITIAL_RANK, orth_reg_weight=NORM_WEIGHT,
        target_modules=[f"layer{i}" for i in range(len(TRUE_RANKS))],
    )  # fmt: skip
    plain = nn.ModuleDict({f"layer{i}": one for i, one in enumerate(toy.layers())})
    wrapped: Any = get_peft_model(plain, config)
    layers = [wrapped.base_model.model[f"layer{i}"] for i in range(len(TRUE_RANKS))]
    named = [(n, p) for n, p in wrapped.named_parameters() if p.requires_grad]
    step = _Step(toy, layers, named, steps, rate, {})
    for place in range(steps):
        step(place, NORM_WEIGHT * _peft_penalty(named), lambda: None)
        wrapped.base_model.update_and_allocate(place)
        step.optimizer.zero_grad()
    ranks = tuple(int((one.lora_E["default"] != 0).sum()) for one in layers)
    return Outcome(step.fresh_loss(), ranks)


def _peft_penalty(named: Sequence[tuple[str, Tensor]]) -> Tensor:
    """Return the penalty that peft's forward pass adds to a model's own loss."""
    norms = []
    for name, factor in named:
        if "lora_A" in name or "lora_B" in name:
            product = factor @ factor.T if "lora_A" in name else factor.T @ factor
            norms.append(torch.norm(product - torch.eye(len(product)), p="fro"))
    return torch.stack(norms).mean()


class _Step:
    """One optimizer step on the sum over layers of the mean squared error."""

    def __init__(
        self,
        toy: Toy,
        layers: Sequence[nn.Module],
        named: Sequence[tuple[str, nn.Parameter]],
        steps: int,
        rate: float,
        changes: Mapping[str, Any],
    ) -> None:
        self._toy, self._layers, self._steps = toy, layers, steps
        settings = {"singular_rate": 1.0, "weight_decay": 0.0, "warmup_steps": 10, **changes}
        self._config = OptimizerConfig(learning_rate=rate, **settings)
        trained = [(name, p) for name, p in named if p.requires_grad]
        (self.optimizer,) = build_optimizers(trained, self._config)

    def __call__(self, place: int, penalty: Tensor | None, after: Callable[[], None]) -> None:
        set_rates([self.optimizer], rate_share(place, self._steps, self._config))
        self.optimizer.zero_grad()
        loss = self._loss(place)
        (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
        after()
        self.optimizer.step()

    def _loss(self, place: int) -> Tensor:
        inputs, wanted = self._toy.batch(place)
        errors = [
            functional.mse_loss(layer(x), y)
            for layer, x, y in zip(self._layers, inputs, wanted, strict=True)
        ]
        return torch.stack(errors).sum()

    @torch.no_grad()
    def fresh_loss(self) -> float:
        """Return the mean squared error on new batches."""
        losses = [float(self._loss(10**6 + place)) for place in range(20)]
        return statistics.mean(losses) / len(self._layers)


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "orthogonal, squared": {},
    "lambda rate x 16": {"optimizer.singular_rate": 16.0},
    "no penalty": {"adalora.orthogonality": 0.0},
    "norm": {"adalora.penalty": "norm", "adalora.orthogonality": NORM_WEIGHT},
    "normal, squared": {"adalora.initialization": "normal"},
    "normal, norm": {
        "adalora.initialization": "normal", "adalora.penalty": "norm",
        "adalora.orthogonality": NORM_WEIGHT,
    },
    "normal, no penalty": {"adalora.initialization": "normal", "adalora.orthogonality": 0.0},
    "normal, norm, lambda rate x 16": {
        "adalora.initialization": "normal", "adalora.penalty": "norm",
        "adalora.orthogonality": NORM_WEIGHT, "optimizer.singular_rate": 16.0,
    },
}  # fmt: skip
"""Settings of our AdaLoRA, relative to lambdas at the common rate."""


def _of(changes: Mapping[str, Any], table: str) -> dict[str, Any]:
    return {
        name.removeprefix(f"{table}."): value
        for name, value in changes.items()
        if name.startswith(f"{table}.")
    }


def ways(steps: int, rate: float) -> dict[str, Callable[[Toy], Outcome]]:
    """Return all methods by name."""
    found: dict[str, Callable[[Toy], Outcome]] = {
        "LoRA, rank 3": lambda toy: run_lora(toy, steps, rate, 3),
        "LoRA, rank 8": lambda toy: run_lora(toy, steps, rate, 8),
        "peft's AdaLoRA": lambda toy: run_peft(toy, steps, rate),
    }
    for name, changes in VARIANTS.items():
        found[name] = lambda toy, changes=changes: run_ours(  # type: ignore[misc]
            toy, steps, rate, changes
        )
    return found


def main() -> None:
    """Run every method with every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rate", type=float, default=1e-2, help="AdamW's peak rate")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps, rate = arguments.steps, arguments.rate
    print(f"{processor_name()}, one of {os.cpu_count()} cores; true ranks {TRUE_RANKS}, "
          f"{steps} steps, rate {rate:g}, noise {NOISE_VARIANCE:g}")  # fmt: skip
    print(f"{'adapter':<34}{'loss':>9}{'SD':>9}  ranks of the first seed")
    for name, way in ways(steps, rate).items():
        found = []
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            found.append(way(Toy.make(seed)))
        losses = [one.loss for one in found]
        deviation = statistics.stdev(losses) if len(losses) > 1 else 0.0
        print(f"{name:<34}{statistics.mean(losses):>9.4f}{deviation:>9.4f}  {found[0].ranks}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
