"""Gradients as one CUDA graph; without a GPU, what would keep them from being recorded."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import training.run.step as step_module
from tests.tiny_models import make_tiny_config, make_tiny_model
from training.acceleration.cuda_graph import CapturedGradients
from training.adapters.config import AdaLoraConfig
from training.config import RunConfig
from training.data.batches import TrainingBatch
from training.losses import LossWeights
from training.run.loop import TrainingLoop
from training.run.run import Run
from training.run.teacher import Teacher
from training.stages.adalora_stage import AdaLoraStage
from training.stages.stage import PretrainStage


class _CpuBesideDevice(TorchDispatchMode):
    """Notes operations that read a tensor of the CPU and make one of another device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        read = torch.utils._pytree.tree_leaves((arguments, named))
        made = torch.utils._pytree.tree_leaves(result)
        if _any_on(made, cpu=False) and _any_on(read, cpu=True):
            self.found.append(str(function))
        return result


def _any_on(values: list[Any], *, cpu: bool) -> bool:
    tensors = [v for v in values if isinstance(v, Tensor) and v.ndim]
    return any((tensor.device.type == "cpu") == cpu for tensor in tensors)


def make_batch(seed: int, device: str) -> TrainingBatch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (2, 1, 64, 64), generator=generator, dtype=torch.uint8)
    batch = TrainingBatch(
        pixels=pixels,
        valid=torch.ones_like(pixels),
        boxes=torch.tensor([[4.0, 4.0, 60.0, 60.0], [0.0, 0.0, 64.0, 64.0]] * 2),
        image_index=torch.tensor([0, 0, 1, 1]),
        tokens=torch.tensor([0, 1, 0, 1]),
        target=(torch.rand(4, 32, 32, generator=generator) > 0.5).float(),
        folds=torch.tensor([0, 0, 1, 1]),
        further=torch.randint(0, 256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8),
        further_meant=torch.tensor([[1.0, 1, 1], [1, 0, 0]] * 2),
        further_known=torch.tensor([[1.0, 1], [1, 1], [0, 1], [0, 1]]),
    )
    return batch.to(torch.device(device))


NO_BATCHES: Any = None  # each test makes its own


def make_loop(folder: Path, device: str, held_out: bool = False, **changes: Any) -> TrainingLoop:
    model = make_tiny_model(**changes).to(device)
    config = RunConfig(stage="pretrain", steps=4, model=make_tiny_config(**changes), loss_size=32)
    models = [make_tiny_model(seed).to(device) for seed in (1, 2)]
    teacher = Teacher(models, 0.5, LossWeights(), compiled=False, held_out=held_out)
    return TrainingLoop(Run(
        config, config.model, PretrainStage(model), NO_BATCHES, [], folder, torch.device(device),
        teacher=teacher,
    ))  # fmt: skip


@pytest.mark.parametrize("box_as_mask", [False, True])
@pytest.mark.parametrize("held_out", [False, True])
def test_nothing_of_a_step_is_copied_from_the_cpu(
    tmp_path: Path, box_as_mask: bool, held_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a copy makes a GPU wait, and a CUDA graph refuses it."""
    monkeypatch.setattr(step_module, "autocast", lambda *_: nullcontext())  # knows no device "meta"
    loop = make_loop(tmp_path, "meta", held_out, window_size=3, box_as_mask=box_as_mask)
    batch = make_batch(0, "meta")
    loop.training_step.backward(batch)  # the loss copies its table once
    with _CpuBesideDevice() as seen:
        loop.training_step.backward(batch)
    assert not seen.found


def test_a_batch_of_another_shape_is_refused() -> None:
    batch = make_batch(0, "cpu")
    other = TrainingBatch(**{**vars(batch), "boxes": batch.boxes[:2]})
    with pytest.raises(ValueError, match=r"boxes is \(2, 4\), not \(4, 4\)"):
        batch.copy_(other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: no graph was recorded")
def test_replayed_gradients_equal_those_computed_step_by_step(tmp_path: Path) -> None:
    recorded, stepwise = make_loop(tmp_path / "a", "cuda"), make_loop(tmp_path / "b", "cuda")
    found, wanted = ([p for _, p in loop.stage.named_parameters()] for loop in (recorded, stepwise))
    captured = CapturedGradients(recorded.training_step.backward, found, torch.device("cuda"))
    for seed in range(3):
        for parameter in wanted:
            parameter.grad = None
        terms = captured(make_batch(seed, "cpu"))
        torch.testing.assert_close(terms, stepwise.training_step.backward(make_batch(seed, "cuda")))
        torch.testing.assert_close([p.grad for p in found], [p.grad for p in wanted])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: no graph was recorded")
def test_adapters_learn_the_same_recorded_and_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks move between replays, and the graph is recorded again when they settle."""
    monkeypatch.setattr(step_module, "compile_parts", lambda _: None)  # which rounds otherwise
    adalora = AdaLoraConfig(
        targets=("q", "v", "lin1"), initial_rank=4, target_rank=2,
        warmup_steps=2, final_steps=4, interval_steps=2,
    )  # fmt: skip

    def trained(recorded: bool) -> TrainingLoop:
        torch.manual_seed(3)
        config = RunConfig(
            stage="stage1", steps=12, model=make_tiny_config(), loss_size=32, compile=recorded,
            adalora=adalora,
        )  # fmt: skip
        stage = AdaLoraStage(make_tiny_model(), adalora, config.steps)
        stage.to(torch.device("cuda"))
        loop = TrainingLoop(
            Run(
                config,
                config.model,
                stage,
                NO_BATCHES,
                [],
                tmp_path / str(recorded),
                torch.device("cuda"),
            )
        )
        for step in range(config.steps):
            loop.train_step(make_batch(step, "cpu"))
        return loop

    one, two = trained(recorded=True), trained(recorded=False)
    assert one.stage.settled()
    for (name, found), (_, wanted) in zip(
        one.stage.named_parameters(), two.stage.named_parameters(), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-3, msg=name)
