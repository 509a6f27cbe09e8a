"""The loader refuses everything that is not exactly what the manifest says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model_store.artifact import ArtifactError, load_model, sha256_of
from model_store.int8_layers import Int8Matrix
from model_store.predictor import PredictionRequest, Predictor
from training.phantom import draw_phantom


@pytest.fixture
def copy(tiny_artifact: Path, tmp_path: Path) -> Path:
    """A copy of the tiny stored model that a test may damage."""
    return Path(shutil.copytree(tiny_artifact, tmp_path / "copy"))


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights and make the hash fit again."""
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    change_manifest(folder, lambda m: m["weights"].update(sha256=sha256_of(path)))


def refused(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_model(folder)
    return str(caught.value)


def test_a_stored_model_loads_with_integers(tiny_artifact: Path) -> None:
    model, manifest = load_model(tiny_artifact)
    integers = [m for m in model.modules() if isinstance(m, Int8Matrix)]
    assert len(integers) == len(manifest.quantization.layers) > 20
    assert all(m.weight.dtype == torch.int8 and m.weight.any() for m in integers)
    assert not any(p.requires_grad for p in model.parameters())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "manifest.json is missing" in refused(tmp_path / "nowhere")


def test_one_flipped_bit_is_seen(copy: Path) -> None:
    path = copy / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert "sha256" in refused(copy) and "weights.safetensors" in refused(copy)


def test_a_truncated_file_is_seen(copy: Path) -> None:
    path = copy / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert "sha256" in refused(copy)
    change_manifest(copy, lambda m: m["weights"].update(sha256=sha256_of(path)))
    assert "not safetensors" in refused(copy)


def test_a_pickle_is_never_read(copy: Path) -> None:
    path = copy / "weights.safetensors"
    torch.save({"weight": torch.zeros(1)}, path)
    change_manifest(copy, lambda m: m["weights"].update(sha256=sha256_of(path)))
    assert "not safetensors" in refused(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format_version=3), "format_version"),
        (lambda m: m.update(preprocessing_version=99), "preprocessing version 99"),
        (lambda m: m.update(conventions={"lung_field": 1, "whole_lung": 0}), "conventions"),
        (lambda m: m.update(conventions={"lung_field": 1}), "conventions"),
        (lambda m: m.update(conventions={}), "conventions"),
        (lambda m: m["quantization"].update(scheme="int4"), "int4"),
        (lambda m: m["architecture"].update(depth=3), "quantization.layers"),
        (lambda m: m["architecture"].update(embed_dim=33), "embed_dim 33"),
        (lambda m: m["architecture"].update(surprise=1), "surprise"),
        (lambda m: m.pop("intended_use"), "intended_use"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["weights"].update(file="../weights.safetensors"), "missing"),
        (lambda m: m["weights"].update(file="absent.safetensors"), "absent.safetensors"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    change_manifest(copy, change)
    assert said in refused(copy)


def test_broken_json_is_named(copy: Path) -> None:
    (copy / "manifest.json").write_text("{")
    assert "manifest.json" in refused(copy)


KEY = "image_encoder.blocks.0.mlp.lin1.matrix.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(KEY), "lacks the tensor"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown tensor 'extra'"),
        (lambda t: t.update({KEY: t[KEY][:, :-1].contiguous()}), "has shape"),
        (lambda t: t.update({KEY: t[KEY].float()}), "torch.float32"),
        (lambda t: t.update({KEY: torch.full_like(t[KEY], 127)}), "beyond ±63"),
        (lambda t: t[KEY + "_scale"].fill_(float("nan")), "not finite"),
        (
            lambda t: t[KEY.replace("weight", "activation_scale")].fill_(0.0),
            "activation_scale is not positive",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    copy: Path, change: Callable[[dict[str, torch.Tensor]], object], said: str
) -> None:
    change_tensors(copy, change)
    assert said in refused(copy)


def test_integers_are_mapped_from_the_file(copy: Path) -> None:
    model, _ = load_model(copy)
    assert any(isinstance(module, Int8Matrix) for module in model.modules())
    assert str(copy / "weights.safetensors") in Path("/proc/self/maps").read_text()


def test_a_file_that_is_overwritten_later_changes_no_mask(copy: Path) -> None:
    predictor = Predictor.load(copy, "cpu")
    request = PredictionRequest(draw_phantom(3, (64, 64)).image)
    before = predictor.predict(request).masks[0]
    path = copy / "weights.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    after = predictor.predict(request).masks[0]
    assert after.score == before.score
    assert (after.mask == before.mask).all()
