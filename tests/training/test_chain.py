"""The whole chain on drawn phantoms, by the commands that a researcher types."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from model_store.architecture import VARIANTS
from model_store.predictor import Predictor
from model_store.self_test import run_self_test
from tests.tiny_models import make_tiny_model
from training.__main__ import main
from training.data.batches import TrainingBatch

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    counts = ["--train", "8", "--val", "4", "--test", "4"]
    assert main(["phantoms", "--out", str(folder / "data"), *counts]) == 0
    return folder


def run_stage(work: Path, stage: str, run: str, *extra: str) -> int:
    config = CONFIGS / f"miniature_{stage}.toml"
    return main(
        [stage, "--config", str(config), "--run", str(work / run), "--device", "cpu",
         "--set", f"data.root={work / 'data'}", *extra]
    )  # fmt: skip


def export(work: Path, run: str, name: str, *extra: str) -> int:
    return main(
        ["export", "--run", str(work / run), "--name", name, "--version", "1",
         "--out", str(work / "models"), "--data", str(work / "data"), *extra]
    )  # fmt: skip


@pytest.fixture(scope="module")
def chain(work: Path) -> Path:
    assert run_stage(work, "pretrain", "pretrain") == 0
    assert run_stage(work, "stage1", "stage1", "--base", str(work / "pretrain")) == 0
    assert run_stage(work, "stage2", "stage2", "--base", str(work / "stage1")) == 0
    assert export(work, "stage1", "mini-float") == 0
    assert export(work, "stage2", "mini", "--float-twin", "mini-float/1") == 0
    return work


def test_the_stored_model_serves(chain: Path) -> None:
    folder = chain / "models" / "mini" / "1"
    predictor = Predictor.load(folder, "cpu")
    assert predictor.info.precision == "int8"
    assert run_self_test(predictor, folder).passed
    stages = [entry["stage"] for entry in predictor.info.manifest.training["stages"]]
    assert stages == ["pretrain", "stage1", "stage2"]
    assert sum(entry.images for entry in predictor.info.manifest.training_data) == 8


def test_the_table_has_int8_beside_fp32(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = chain / "scores.json"
    arguments = ["evaluate", "--model", str(chain / "models" / "mini" / "1"), "--device", "cpu",
                 "--data", str(chain / "data"), "--split", "test", "--store",
                 "--json", str(scores)]  # fmt: skip
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for model in ("int8", "fp32", "bf16"):
        assert sum(f" {model} " in line for line in lines) == 4
    assert len(json.loads(scores.read_text())) == 4 * 2 * 3
    stored = Predictor.load(chain / "models" / "mini" / "1", "cpu").info.manifest.metrics["test"]
    int8 = stored["phantom_lung_field"]["own_box"]["int8"]["dice"]
    assert int8["n"] == 2
    card = (chain / "models" / "mini" / "1" / "README.md").read_text()
    assert f"| phantom_lung_field | own_box | int8 | 2 | {int8['mean']:.4f} |" in card


def test_the_ranks_add_up_to_the_target(chain: Path) -> None:
    state = torch.load(chain / "stage1" / "best.pt", weights_only=True)
    ranks = state["stage_state"]["ranks"]
    assert sum(sum(slices.values()) for slices in ranks.values()) == 2 * 3 * 2
    assert (chain / "stage1" / "rank_map.png").stat().st_size > 1000
    frozen = torch.load(chain / "stage2" / "best.pt", weights_only=True)["model"]
    for name, mask in state["model"].items():
        if name.endswith(".mask"):
            assert torch.equal(frozen[name.replace("qkv.", "qkv.source.")], mask)


def test_a_stored_version_never_changes(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(chain, "stage2", "mini") == 2
    assert "never changes" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["pretrain", "stage1", "stage2"])
def test_a_resumed_run_ends_with_the_same_weights(chain: Path, stage: str) -> None:
    """Stopped half-way and resumed == never stopped, to the bit."""
    bases = {"pretrain": None, "stage1": "pretrain", "stage2": "stage1"}
    base = bases[stage]
    extra = ["--base", str(chain / base)] if base else []
    whole, parted = f"{stage}_whole", f"{stage}_parted"
    settings = ["--set", "checkpoint_every_steps=5", "--set", "optimizer.decay_share=0"]
    settings += ["--set", "validate_every_steps=100"]
    assert run_stage(chain, stage, whole, *extra, *settings) == 0
    # The checkpoint of step 5 is what a process killed in steps 6 to 9 leaves behind.
    from training.run import loop

    original = loop.TrainingLoop.train_step

    def killed_at_step_8(self: loop.TrainingLoop, batch: TrainingBatch) -> None:
        if self._step == 8:
            raise KeyboardInterrupt
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.TrainingLoop, "train_step", killed_at_step_8)
        with pytest.raises(KeyboardInterrupt):
            run_stage(chain, stage, parted, *extra, *settings)
    assert run_stage(chain, stage, parted, "--resume", *extra, *settings) == 0
    wanted = torch.load(chain / whole / "latest.pt", weights_only=True)
    got = torch.load(chain / parted / "latest.pt", weights_only=True)
    assert got["step"] == wanted["step"] == 12
    for part in ("model", "weights_now", "average"):
        for name, tensor in wanted[part].items():
            assert torch.equal(got[part][name], tensor), (part, name)


def test_pretraining_goes_on_from_an_earlier_one(
    chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_step = ["--set", "steps=1", "--set", "optimizer.warmup_steps=0"]
    still = [*one_step, "--set", "optimizer.learning_rate=1e-30"]
    still += ["--set", "optimizer.matrix_learning_rate=0.0"]
    base = ["--base", str(chain / "pretrain")]
    assert run_stage(chain, "pretrain", "further", *base, *still) == 0
    first = torch.load(chain / "pretrain" / "best.pt", weights_only=True)
    further = torch.load(chain / "further" / "best.pt", weights_only=True)
    for name, tensor in first["model"].items():
        torch.testing.assert_close(further["model"][name], tensor)
    assert [entry["stage"] for entry in further["lineage"]] == ["pretrain"]
    other_sizes = [*base, "--set", "model.depth=3"]
    assert run_stage(chain, "pretrain", "deeper", *other_sizes) == 2
    assert "does not fit the config's [model]" in capsys.readouterr().err
    assert run_stage(chain, "pretrain", "back", "--base", str(chain / "stage1")) == 2
    assert "goes on from a pretrain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrain", "--config", "absent.toml", "--run", "x"], "absent.toml cannot be read"),
        (["evaluate", "--model", "absent", "--data", "x"], "manifest.json is missing"),
        (["export", "--run", "absent", "--name", "a", "--version", "1", "--data", "x"], "absent"),
    ],
)
def test_refusals_are_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_stages_in_the_wrong_order_are_refused(
    chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stage(chain, "stage2", "wrong", "--base", str(chain / "pretrain")) == 2
    assert "stage2 starts from stage1" in capsys.readouterr().err
    assert run_stage(chain, "pretrain", "pretrain") == 2
    assert "--resume" in capsys.readouterr().err
    config = str(CONFIGS / "miniature_stage1.toml")
    assert main(["pretrain", "--config", config, "--run", str(chain / "wrong")]) == 2
    assert "is a stage1 run, not pretrain" in capsys.readouterr().err


def test_stage1_starts_from_metas_file(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three channels, windowed attention and four mask tokens, at another input size."""
    sizes: dict[str, Any] = {
        "input_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 3,
        "global_attn_indexes": (1,), "in_channels": 3, "prompt_dim": 32, "decoder_heads": 2,
        "num_mask_tokens": 4, "pixel_mean": (120.0, 110.0, 100.0), "pixel_std": (60.0, 55.0, 50.0),
        "decoder_mlp_dim": 32, "iou_head_hidden_dim": 16,
    }  # fmt: skip
    monkeypatch.setitem(VARIANTS, "vit_small", sizes)
    torch.save(make_tiny_model(**sizes).state_dict(), work / "sam_vit_small.pth")
    extra = ["--base", str(work / "sam_vit_small.pth"), "--set", "input_size=96"]
    assert run_stage(work, "stage1", "meta", *extra) == 0
    state = torch.load(work / "meta" / "best.pt", weights_only=True)
    assert state["architecture"]["input_size"] == 96 and state["architecture"]["in_channels"] == 3
    assert state["lineage"] == [{"stage": "meta", "file": "sam_vit_small.pth"}]
    assert run_stage(work, "stage2", "meta2", "--base", str(work / "meta")) == 0
    assert export(work, "meta2", "from-meta") == 0
    folder = work / "models" / "from-meta" / "1"
    assert run_self_test(Predictor.load(folder, "cpu"), folder).passed
