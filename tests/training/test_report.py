import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from model_store.artifact import read_manifest
from model_store.manifest import TrainingData
from tests.tiny_models import make_tiny_config, make_tiny_model, write_tiny_artifact
from training.__main__ import main
from training.evaluation.scores import ImageScore
from training.export import write_deployed
from training.model_card import write_manifest_and_card
from training.phantom.dataset import write_phantom_dataset
from training.report.learning_curves import draw_learning_curves, read_events
from training.report.overlays import choose_examples

SENSITIVITY = {
    "dice_margin": 0.001, "ssim_margin": 0.25,
    "together": {"dice_lost": 0.01234, "worst_dice_lost": 0.5, "ssim_lost": 0.3},
    "layers": {
        "image_encoder.neck.0": {"precision": "float", "dice_lost": 0.00456, "worst_dice_lost": 0.1,
                                 "ssim_lost": 0.1},
        "image_encoder.neck.2": {"precision": "int8", "dice_lost": 0.0001, "worst_dice_lost": 0.01,
                                 "ssim_lost": 0.02},
    },
}  # fmt: skip
RANKS = {f"image_encoder.blocks.{i}.attn.qkv": {"q": i, "k": 2, "v": 3} for i in range(2)}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with phantoms and a tiny INT8 model whose float twin and ranks are known."""
    folder = tmp_path_factory.mktemp("report")
    write_phantom_dataset(folder / "data", {"train": 4, "val": 6}, longest_side=96)
    model = write_tiny_artifact(folder / "models")
    write_deployed(
        make_tiny_model(), make_tiny_config(), folder / "models", name="tiny-float", version="1"
    )
    manifest = read_manifest(model)
    stages = [
        {"stage": "stage1", "steps": 9, "ranks": RANKS, "initial_rank": 4},
        {"stage": "stage2", "steps": 3, "sensitivity": SENSITIVITY},
    ]
    training = {"stages": stages}
    data = (TrainingData(source="drawn", images=4, convention="lung_field", license="Apache-2.0"),)
    changes = {
        "float_twin": "tiny-float/1",
        "training": training,
        "intended_use": "<b>Tests</b>",
        "training_data": data,
    }
    write_manifest_and_card(model, manifest.model_copy(update=changes))
    return folder


@pytest.fixture(scope="module")
def page(stored: Path) -> str:
    out = stored / "out" / "report.html"
    arguments = ["report", str(stored / "models" / "tiny" / "1"), "--data", str(stored / "data"),
                 "--out", str(out), "--device", "cpu", "--store"]  # fmt: skip
    assert main(arguments) == 0
    return out.read_text(encoding="utf-8")


def test_the_page_needs_nothing_outside_itself(page: str) -> None:
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(s.startswith(("data:image/", "#")) for s in sources)
    assert "url(" not in page and "<script" not in page


def test_every_section_is_there_and_in_the_contents(page: str) -> None:
    sections = re.findall(r'<h2 id="([a-z0-9-]+)"', page)
    assert sections == [
        "quality", "against-fp32", "boxes", "examples", "quantization", "sensitivity", "ranks",
        "card",
    ]  # fmt: skip
    assert re.findall(r'<li><a href="#([a-z0-9-]+)"', page) == sections
    for words in ("NSD", "HD95", "TOST p", "SSIM", "excess kurtosis", "Best: Dice", "Worst: Dice"):
        assert words in page


def test_text_of_the_manifest_is_escaped(page: str) -> None:
    assert "&lt;b&gt;Tests&lt;/b&gt;" in page and "<b>Tests" not in page


def test_the_numbers_of_the_card_are_those_of_the_page(page: str, stored: Path) -> None:
    folder = stored / "models" / "tiny" / "1"
    manifest = read_manifest(folder)
    found = manifest.metrics["val"]["phantom_lung_field"]["own_box"]["int8"]
    assert found["dice"]["n"] == 3
    card = (folder / "README.md").read_text()
    for text in (f"{found['dice']['mean']:.4f}", f"{found['nsd']['mean']:.4f}"):
        assert text in page and text in card
    assert set(manifest.evaluation["val"]) == {"comparison", "similarity", "jitter"}
    assert "paired by image" in card
    moved = manifest.evaluation["val"]["jitter"]["phantom_lung_field"]["20%"]
    assert f"{moved['mean']:.4f} ({moved['percentile_5']:.3f})" in card


def test_the_choice_of_float_layers_is_shown_with_its_reason(page: str, stored: Path) -> None:
    assert "1 of 2 layers lose more than\n0.001 Dice or 0.25 SSIM" in page
    assert "<code>image_encoder.neck.0</code>." in page and "+0.01234" in page
    rows = re.findall(r">(image_encoder.neck.\d)</td><td>([^<]*)<.*>(float|int8)</td>", page)
    assert rows == [
        ("image_encoder.neck.0", "+0.00456", "float"), ("image_encoder.neck.2", "+0.00010", "int8"),
    ]  # fmt: skip
    card = (stored / "models" / "tiny" / "1" / "README.md").read_text()
    assert "1 of 2 layers stay float" in card and "dice_margin" not in card


def test_a_run_has_curves(stored: Path, tmp_path: Path) -> None:
    configs = Path(__file__).parents[2] / "training" / "configs"
    run = tmp_path / "pretrain"
    data = ["--set", f"data.root={stored / 'data'}", "--device", "cpu"]
    assert main(["pretrain", "--config", str(configs / "miniature_pretrain.toml"),
                 "--run", str(run), *data]) == 0  # fmt: skip
    out = tmp_path / "run.html"
    arguments = ["report", str(run), "--data", str(stored / "data"), "--out", str(out)]
    assert main(arguments) == 0
    sections = re.findall(r'<h2 id="([a-z0-9-]+)"', out.read_text())
    assert sections == ["quality", "boxes", "examples", "curves", "card"]
    assert main([*arguments, "--store"]) == 2


def test_what_is_neither_model_nor_run_is_refused(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(stored / "data"), "--data", str(stored / "data")]) == 2
    assert "neither a stored model" in capsys.readouterr().err


def test_a_repeated_step_counts_once_and_a_torn_line_not_at_all(tmp_path: Path) -> None:
    entries = [
        {"event": "step", "step": 20, "loss": 0.9}, {"event": "step", "step": 40, "loss": 0.8},
        {"event": "resume", "step": 20}, {"event": "step", "step": 40, "loss": 0.7},
    ]  # fmt: skip
    text = "\n".join(json.dumps(entry) for entry in entries)
    (tmp_path / "log.jsonl").write_text(text + '\n{"event": "st')
    assert [(e["step"], e["loss"]) for e in read_events(tmp_path, "step")] == [(20, 0.9), (40, 0.7)]
    assert draw_learning_curves(tmp_path) is not None
    assert draw_learning_curves(tmp_path / "absent") is None


def test_help_does_not_wait_for_plots_or_torch() -> None:
    code = (
        "import sys, training.__main__ as m; m.build_parser(); "
        "sys.exit(any(x in sys.modules for x in ('matplotlib', 'jinja2', 'monai', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_best_median_and_worst() -> None:
    scores = [ImageScore(str(d), "s", "m", "own_box", d, d) for d in (0.5, 0.9, 0.7)]
    assert [(rank, s.dice) for rank, s in choose_examples(scores)] == [
        ("best", 0.9), ("median", 0.7), ("worst", 0.5),
    ]  # fmt: skip
    assert len(choose_examples(scores[:1])) == 1
