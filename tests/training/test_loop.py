"""The settings of the one loop, each seen to do what it says."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.acceleration import mixed_precision
from training.checkpoint import load_checkpoint, weights_sha256
from training.config import load_config
from training.errors import CheckpointError, ConfigError
from training.phantom.dataset import write_phantom_dataset
from training.run.assembly import prepare_run
from training.run.loop import TrainingLoop

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "miniature_pretrain.toml"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop") / "data"
    write_phantom_dataset(folder, {"train": 6, "val": 2}, longest_side=96)
    return folder


def make_loop(data: Path, folder: Path, changes: Mapping[str, Any] | None = None) -> TrainingLoop:
    settings = {"data.root": str(data), "data.workers": 0, "steps": 3, **(changes or {})}
    config = load_config(CONFIG, settings)
    return prepare_run(config, None, folder, resume=False, device=CPU)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_the_gradient_that_moves_the_weights_is_clipped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(data, tmp_path, {"optimizer.clip_norm": 1e-3})
    norms: list[float] = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, closure: None = None) -> Any:
        gradients = [p.grad for p in loop.stage.model.parameters() if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return original(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    loop.run()
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3)
    assert events(tmp_path, "step")[0]["norm"] > 1e-3  # the log has the norm before clipping


def test_a_gradient_that_is_not_finite_ends_the_run_and_is_never_stored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"checkpoint_every_steps": 1, "validate_every_steps": 100}
    loop = make_loop(data, tmp_path, changes)
    original = loop.stage.after_backward

    def broken(step: int) -> None:
        original(step)
        if step == 1:
            next(p for p in loop.stage.model.parameters() if p.grad is not None).grad.fill_(  # type: ignore[union-attr]
                float("nan")
            )

    monkeypatch.setattr(loop.stage, "after_backward", broken)
    with pytest.raises(FloatingPointError, match="norm is not finite"):
        loop.run()
    stored = torch.load(tmp_path / "latest.pt", weights_only=True)
    assert stored["step"] == 1
    assert all(torch.isfinite(t).all() for t in stored["weights_now"].values())


def test_bf16_multiplies_in_bfloat16_and_keeps_float32_weights(data: Path, tmp_path: Path) -> None:
    seen: dict[str, set[torch.dtype]] = {}
    for precision in ("fp32", "bf16"):
        loop = make_loop(data, tmp_path / precision, {"precision": precision})
        found: set[torch.dtype] = set()
        layer = loop.stage.model.image_encoder.blocks[0].mlp.lin1
        layer.register_forward_hook(
            lambda m, i, output, found=found: found.add(output.dtype) if m.training else None
        )
        loop.run()
        seen[precision] = found
        assert {p.dtype for p in loop.stage.model.parameters()} == {torch.float32}
    assert seen == {"fp32": {torch.float32}, "bf16": {torch.bfloat16}}


@pytest.mark.parametrize("has_instructions", [False, True])
def test_bf16_on_a_cpu_without_it_warns(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_instructions: bool,
) -> None:
    monkeypatch.setattr(mixed_precision, "cpu_multiplies_bf16", lambda: has_instructions)
    make_loop(data, tmp_path, {"precision": "bf16"}).run()
    warned = "neither AVX512_BF16 nor AMX" in capsys.readouterr().err
    assert warned is not has_instructions
    assert len(events(tmp_path, "warning")) == (0 if has_instructions else 1)
    cuda = torch.device("cuda")
    assert mixed_precision.slow_precision_warning("bf16", cuda) is None
    assert mixed_precision.slow_precision_warning("fp32", CPU) is None


def test_recomputed_blocks_make_the_same_weights_to_the_bit_and_run_twice(
    data: Path, tmp_path: Path
) -> None:
    hashes, calls = {}, {}
    for recompute in (False, True):
        loop = make_loop(data, tmp_path / str(recompute), {"recompute_blocks": recompute})
        count = [0]
        lin1: nn.Module = loop.stage.model.image_encoder.blocks[0].mlp.lin1

        def counted(module: nn.Module, *_: object, count: list[int] = count) -> None:
            count[0] += module.training

        lin1.register_forward_hook(counted)
        loop.run()
        hashes[recompute], calls[recompute] = loop.weights_sha256(), count[0]
    assert hashes[True] == hashes[False]
    assert calls == {False: 3, True: 6}


def test_without_a_running_mean_the_weights_themselves_are_kept(data: Path, tmp_path: Path) -> None:
    loop = make_loop(data, tmp_path, {"optimizer.ema_decay": 0.0})
    loop.run()
    best = torch.load(tmp_path / "best.pt", weights_only=True)["model"]
    assert weights_sha256(best) == weights_sha256(loop.stage.model.state_dict())


def test_a_batch_in_parts_has_the_loss_and_the_gradient_of_the_whole(
    data: Path, tmp_path: Path
) -> None:
    logged, passes = [], []
    for parts in (1, 4):
        loop = make_loop(data, tmp_path / str(parts), {"accumulate": parts, "steps": 1})
        count = [0]
        loop.stage.model.image_encoder.register_forward_hook(
            lambda m, *_, count=count: count.__setitem__(0, count[0] + m.training)
        )
        loop.run()
        logged.append(events(tmp_path / str(parts), "step")[0])
        passes.append(count[0])
    assert passes == [1, 4]
    for name in ("loss", "norm"):
        assert logged[1][name] == pytest.approx(logged[0][name], rel=1e-4)


def test_a_disk_that_fills_up_does_not_end_the_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"checkpoint_every_steps": 1, "steps": 4, "validate_every_steps": 100}
    loop = make_loop(data, tmp_path, changes)
    original = loop.stage.after_step

    def fill_up(step: int) -> dict[str, float]:
        partial = tmp_path / "latest.pt.partial"
        partial.unlink(missing_ok=True)
        if step == 1:  # the checkpoint of step 2 meets a full disk
            partial.symlink_to("/dev/full")
        return original(step)

    loop.stage.after_step = fill_up  # type: ignore[method-assign]
    assert loop.run() is not None
    (failed,) = events(tmp_path, "not_saved")
    assert failed["step"] == 2 and "No space left" in failed["reason"]
    assert "training goes on" in capsys.readouterr().err
    assert torch.load(tmp_path / "latest.pt", weights_only=True)["step"] == 4


def test_tensorboard_has_the_numbers_of_the_log(data: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorboard", reason="TensorBoard is not installed: its log was NOT tested"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_loop(data, tmp_path, {"tensorboard": True}).run()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    (loss,) = read.Scalars("step/loss")
    (logged,) = events(tmp_path, "step")
    assert loss.step == 3 and loss.value == pytest.approx(logged["loss"])
    (selection,) = read.Scalars("validation/selection")
    assert selection.value == pytest.approx(events(tmp_path, "validation")[0]["selection"])
    assert any(tag.startswith("validation/own_box/phantom") for tag in read.Tags()["scalars"])


def test_tensorboard_is_asked_for_by_name_when_it_is_missing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'adalora-qat\[tensorboard\]'"):
        make_loop(data, tmp_path, {"tensorboard": True})


def test_a_checkpoint_of_other_optimizers_is_refused_in_a_sentence(
    data: Path, tmp_path: Path
) -> None:
    make_loop(data, tmp_path, {"steps": 1}).run()
    without_muon = {"steps": 1, "optimizer.matrix_learning_rate": 0.0}
    other = make_loop(data, tmp_path / "other", without_muon)
    with pytest.raises(CheckpointError, match=r"latest\.pt was written with other optimizers"):
        other.resume(load_checkpoint(tmp_path / "latest.pt"), "latest.pt")


def test_the_log_tells_how_long_a_step_waits_for_its_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = make_loop(data, tmp_path)
    original = loop._run.source.batch

    def slow(step: int) -> Any:
        time.sleep(0.2)
        return original(step)

    monkeypatch.setattr(loop._run.source, "batch", slow)
    loop.run()
    (step,) = events(tmp_path, "step")
    assert 0.2 <= step["wait_s"] <= step["step_s"]
