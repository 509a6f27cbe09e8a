"""AdaLoRA as a run sees it: the loop cuts and penalises, nobody has to remember to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.adapters.adalora import AdaLoraLinear
from training.adapters.adapted_model import find_layers
from training.config import load_config
from training.phantom.dataset import write_phantom_dataset
from training.run.assembly import prepare_run
from training.run.loop import TrainingLoop

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adalora")
    write_phantom_dataset(folder / "data", {"train": 4, "val": 2}, longest_side=96)
    make_loop(folder, "pretrain", "base", {"steps": 2}).run()
    return folder


def make_loop(work: Path, stage: str, run: str, changes: Mapping[str, Any]) -> TrainingLoop:
    settings = {"data.root": str(work / "data"), "data.workers": 0, **changes}
    config = load_config(CONFIGS / f"miniature_{stage}.toml", settings)
    base = None if stage == "pretrain" else work / "base"
    return prepare_run(config, base, work / run, resume=False, device=CPU)


def test_the_ranks_equal_the_cubic_budget_after_every_step_of_a_run(work: Path) -> None:
    steps, warmup, final, slices = 14, 3, 4, 2 * 3
    schedule = {"adalora.warmup_steps": warmup, "adalora.final_steps": final,
                "adalora.interval_steps": 1}  # fmt: skip
    loop = make_loop(work, "stage1", "budget", {"steps": steps, **schedule})
    adapters = find_layers(loop.stage.model, AdaLoraLinear).values()
    kept: list[int] = []
    original = loop.stage.after_step

    def counted(step: int) -> dict[str, float]:
        reported = original(step)
        kept.append(sum(int(adapter.mask.sum()) for adapter in adapters))
        assert reported["rank_total"] == kept[-1]
        return reported

    loop.stage.after_step = counted  # type: ignore[method-assign]
    loop.run()
    initial, target = 4 * slices, 2 * slices
    wanted = []
    for step in range(steps):
        left = 1 - (step - warmup) / (steps - final - warmup)
        left = min(1.0, max(0.0, left))
        wanted.append(target + round((initial - target) * left**3))
    assert kept == wanted
    assert kept[0] == initial and kept[-1] == target and len(set(kept)) > 3
    assert (work / "budget" / "rank_map.png").is_file()


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_penalty_is_in_the_gradient_that_moves_the_factors(work: Path, weight: float) -> None:
    """d/dP |P'P - I|^2 = 4 P (P'P - I), averaged over the layers, times its weight."""
    gradients: list[list[np.ndarray]] = []
    factors: list[np.ndarray] = []
    for orthogonality in (0.0, weight):
        changes = {"adalora.orthogonality": orthogonality, "optimizer.clip_norm": 1e9}
        loop = make_loop(work, "stage1", f"penalty_{weight}_{orthogonality}", changes)
        adapters = list(find_layers(loop.stage.model, AdaLoraLinear).values())
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for adapter in adapters:
                adapter.P.add_(0.1 * torch.randn(adapter.P.shape, generator=generator))
        factors = [adapter.P.detach().double().numpy().copy() for adapter in adapters]
        loop.train_step(loop._run.source.batch(0))
        gradients.append([adapter.P.grad.double().numpy() for adapter in adapters])  # type: ignore[union-attr]
    for p, plain, penalised in zip(factors, *gradients, strict=True):
        excess = p.transpose(0, 2, 1) @ p - np.eye(p.shape[2])
        wanted = weight * 4 * p @ excess / len(factors)
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(penalised - plain, wanted, rtol=1e-3, atol=1e-5)


def test_the_log_has_the_penalty_within_the_loss(work: Path) -> None:
    loop = make_loop(work, "stage1", "logged", {"adalora.orthogonality": 10.0})
    with torch.no_grad():
        for adapter in find_layers(loop.stage.model, AdaLoraLinear).values():
            adapter.Q.mul_(1.5)
    loop.run()
    lines = (work / "logged" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    (step,) = [e for e in map(json.loads, lines) if e["event"] == "step"]
    weights = loop.config.loss
    masks = sum(getattr(weights, name) * step[name] for name in ("dice", "cross_entropy", "iou"))
    assert step["penalty"] > 10
    assert step["loss"] == pytest.approx(masks + step["penalty"], rel=1e-4)


def test_lambdas_learn_at_their_own_rate(work: Path) -> None:
    moved = []
    for rate in (1.0, 8.0):
        changes = {"optimizer.singular_rate": rate, "optimizer.warmup_steps": 0}
        loop = make_loop(work, "stage1", f"rate_{rate}", changes)
        adapters = list(find_layers(loop.stage.model, AdaLoraLinear).values())
        before = torch.cat([adapter.P.detach().flatten() for adapter in adapters])
        loop.train_step(loop._run.source.batch(0))
        after = torch.cat([adapter.P.detach().flatten() for adapter in adapters])
        lambdas = torch.cat([adapter.singular.detach().flatten() for adapter in adapters])
        moved.append((lambdas.abs().max().item(), (after - before).abs().max().item()))
    assert moved[1][0] == pytest.approx(8 * moved[0][0], rel=1e-3)
    assert moved[1][1] == pytest.approx(moved[0][1], rel=1e-3)
