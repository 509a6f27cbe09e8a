"""A stored model beside itself without quantization-aware training, in its manifest and card."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.artifact import read_manifest
from tests.tiny_models import make_tiny_config, make_tiny_model, quantized
from training.__main__ import main
from training.export import write_deployed
from training.phantom.dataset import write_phantom_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ptq") / "data"
    write_phantom_dataset(folder, {"train": 2, "val": 2, "test": 3}, longest_side=96)
    return folder


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    config = make_tiny_config()
    write_deployed(make_tiny_model(), config, tmp_path, name="tiny-float", version="1")
    write_deployed(
        quantized(), config, tmp_path, name="tiny", version="1", float_twin="tiny-float/1"
    )
    return tmp_path / "tiny" / "1"


def test_the_card_says_what_training_the_integers_gave(
    stored: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = read_manifest(stored).weights
    words = ["--model", str(stored), "--data", str(data), "--split", "test", "--device", "cpu"]
    assert main(["ptq", *words, "--calibration", "1", "--store"]) == 0
    assert "ptq" in capsys.readouterr().out
    after = read_manifest(stored)
    assert after.weights == weights
    for source, boxes in after.metrics["test"].items():
        for box, models in boxes.items():
            assert set(models) == {"int8", "ptq"}
            gain = models["int8"]["dice"]["mean"] - models["ptq"]["dice"]["mean"]
            compared = after.evaluation["test"]["post_training"][source][box]
            assert compared["mean"] == pytest.approx(gain, abs=1e-9)
    card = (stored / "README.md").read_text(encoding="utf-8")
    assert "Dice minus PTQ" in card and "| own_box | ptq | " in card


def test_an_evaluation_of_the_same_xrays_leaves_what_other_commands_found(
    stored: Path, data: Path, tmp_path: Path
) -> None:
    words = ["--model", str(stored), "--data", str(data), "--split", "test", "--device", "cpu"]
    assert main(["ptq", *words, "--calibration", "1", "--store"]) == 0
    assert main(["population", *words, "--only", "groups", "--store"]) == 0
    before = read_manifest(stored)
    assert main(["evaluate", *words, "--store"]) == 0
    after = read_manifest(stored)
    for name in ("groups", "post_training"):
        assert after.evaluation["test"][name] == before.evaluation["test"][name]
    for source, boxes in after.metrics["test"].items():
        assert set(boxes["own_box"]) == {"int8", "fp32", "bf16", "ptq"}
        assert boxes["own_box"]["ptq"] == before.metrics["test"][source]["own_box"]["ptq"]
    other = tmp_path / "more"
    write_phantom_dataset(other, {"train": 2, "val": 2, "test": 5}, longest_side=96)
    words[3] = str(other)
    assert main(["evaluate", *words, "--store"]) == 0
    assert "post_training" not in read_manifest(stored).evaluation["test"]  # of other X-rays


@pytest.mark.parametrize(
    ("model", "words", "refusal"),
    [
        ("tiny-float", [], "no integers, or no float twin"),
        ("tiny", ["--limit", "1", "--store"], "--limit 1 measures a part"),
        ("tiny", ["--calibration", "0"], "--calibration is 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    stored: Path, data: Path, model: str, words: list[str], refusal: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = stored.parent.parent / model / "1"
    assert main(["ptq", "--model", str(folder), "--data", str(data), *words]) == 2
    assert refusal in capsys.readouterr().err
