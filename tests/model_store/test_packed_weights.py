"""Weights of few levels on disk: what goes in comes out, and a damaged byte is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model_store.artifact import ArtifactError, load_model, sha256_of
from model_store.engine.module_engine import ModuleEngine
from model_store.int8_layers import Int8Matrix
from model_store.integers import WEIGHT_LIMIT
from model_store.packed_weights import pack_weights, packed_length, unpack_weights
from model_store.predictor import Predictor
from model_store.weight_levels import EIGHT_BIT_LEVELS, WeightLevels
from tests.tiny_models import make_requests, make_tiny_config, make_tiny_model, write_tiny_artifact
from training.export import write_deployed
from training.quantization.post_training import add_few_levels, float_layer_names, round_weights

COUNTS = [*range(2, 17)]


@given(st.sampled_from(COUNTS), st.integers(1, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_what_is_packed_comes_out_again(count: int, weights: int, seed: int) -> None:
    levels = WeightLevels(count)
    generator = torch.Generator().manual_seed(seed)
    digits = torch.randint(0, count, (1, weights), generator=generator)
    weight = (digits * levels.spacing - levels.largest).to(torch.int8)
    packed = pack_weights(weight, levels)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_length(weights, levels) == -(-weights // levels.weights_per_byte)
    found = unpack_weights(packed, (1, weights), levels)
    assert found.dtype == torch.int8
    assert torch.equal(found, weight)


@pytest.mark.parametrize(
    ("count", "integers", "weights_per_byte", "bits"),
    [
        (2, (-1, 1), 8, 1),
        (3, (-1, 0, 1), 5, 2),
        (4, (-3, -1, 1, 3), 4, 2),
        (7, (-3, -2, -1, 0, 1, 2, 3), 2, 3),
        (16, tuple(range(-15, 16, 2)), 2, 4),
    ],
)
def test_levels_are_even_around_zero_and_a_byte_holds_as_many_as_fit(
    count: int, integers: tuple[int, ...], weights_per_byte: int, bits: int
) -> None:
    levels = WeightLevels(count)
    assert levels.integers == integers
    assert (levels.weights_per_byte, levels.bits) == (weights_per_byte, bits)
    assert count**weights_per_byte <= 256 < count ** (weights_per_byte + 1)


def test_the_levels_of_8_bit_models_are_those_of_the_integer_scheme() -> None:
    levels = WeightLevels(EIGHT_BIT_LEVELS)
    assert levels.integers == tuple(range(-WEIGHT_LIMIT, WEIGHT_LIMIT + 1))
    assert (levels.weights_per_byte, levels.bits) == (1, 8)


@pytest.mark.parametrize("count", [-1, 0, 1, 17, 126, 128, 255])
def test_other_counts_of_levels_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"weights of {count} levels"):
        WeightLevels(count)


def test_every_number_goes_to_its_nearest_level() -> None:
    levels = WeightLevels(4)
    units = torch.tensor([-9.0, -2.1, -1.9, -0.1, 0.1, 1.9, 2.1, 9.0])
    assert levels.nearest(units).tolist() == [-3.0, -3.0, -1.0, -1.0, 1.0, 1.0, 3.0, 3.0]


def test_a_weight_between_levels_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="none of the 4 levels"):
        pack_weights(torch.tensor([[1, 0]], dtype=torch.int8), WeightLevels(4))
    with pytest.raises(ValueError, match="none of the 3 levels"):
        pack_weights(torch.tensor([[2]], dtype=torch.int8), WeightLevels(3))


def test_bytes_that_were_never_written_are_refused() -> None:
    ternary = WeightLevels(3)
    with pytest.raises(ValueError, match="a byte is no 5 digits to the base 3"):
        unpack_weights(torch.tensor([243], dtype=torch.uint8), (5,), ternary)
    with pytest.raises(ValueError, match="digits beyond the last weight"):
        unpack_weights(torch.tensor([81], dtype=torch.uint8), (3,), ternary)
    with pytest.raises(ValueError, match="does not hold 6 weights of 3 levels, which are 2 bytes"):
        unpack_weights(torch.tensor([0], dtype=torch.uint8), (6,), ternary)
    with pytest.raises(ValueError, match="does not hold"):
        unpack_weights(torch.tensor([0], dtype=torch.int8), (5,), ternary)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A tiny model of four levels, rounded on noise."""
    model = make_tiny_model(3)
    layers = add_few_levels(model, WeightLevels(4), float_layer_names(model))
    pixels = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    boxes = torch.tensor([[4.0, 4.0, 60.0, 60.0]] * 2)
    round_weights(model, layers, [(model.normalize(pixels), boxes, torch.arange(2))])
    return write_deployed(model, make_tiny_config(), tmp_path, name="tiny-w2", version="1").folder


def test_a_packed_model_takes_a_quarter_of_the_bytes_and_loads_as_int8(stored: Path) -> None:
    model, manifest = load_model(stored)
    matrices = {n: m for n, m in model.named_modules() if isinstance(m, Int8Matrix)}
    packed = load_file(stored / "weights.safetensors")
    for name, matrix in matrices.items():
        assert matrix.weight.dtype == torch.int8
        assert set(matrix.weight.unique().tolist()) <= {-3, -1, 1, 3}
        assert len(packed[f"{name}.weight"]) == -(-matrix.weight.numel() // 4)
    assert manifest.quantization.weight_bits == 2
    assert {n.removesuffix(".matrix") for n in matrices} == set(manifest.quantization.weight_levels)
    assert Predictor.load(stored, "cpu").info.weight_bits == 2


def test_a_packed_model_runs_on_the_engine_of_8_bit_models_and_gives_its_modules_masks(
    stored: Path, tmp_path: Path
) -> None:
    eight = Predictor.load(write_tiny_artifact(tmp_path / "eight"), "cpu")
    packed = Predictor.load(stored, "cpu")
    assert packed.info.fallback_reason is None and packed.info.precision == "int8"
    assert packed.info.engine == eight.info.engine
    plain = Predictor(
        load_model(stored)[0], packed.info.manifest, torch.device("cpu"),
        engine=ModuleEngine(load_model(stored)[0]),
    )  # fmt: skip
    for request in make_requests(3):
        for one, other in zip(
            packed.predict(request).masks, plain.predict(request).masks, strict=True
        ):
            assert float((one.mask == other.mask).mean()) > 0.99


def test_a_damaged_packed_model_is_refused_by_name(stored: Path) -> None:
    path = stored / "weights.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith("qkv.matrix.weight"))
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, path)
    _trust(stored)
    with pytest.raises(ArtifactError, match=f"{name}.*does not hold"):
        load_model(stored)


@pytest.mark.parametrize(
    ("layer", "count", "message"),
    [
        ("image_encoder.blocks.7.attn.qkv", 4, "names .*blocks.7.* not an integer layer"),
        ("image_encoder.blocks.0.attn.qkv", 40, "weights of 40 levels"),
        ("image_encoder.blocks.0.attn.qkv", 2, "does not hold"),
    ],
)
def test_a_manifest_with_wrong_levels_is_refused(
    stored: Path, layer: str, count: int, message: str
) -> None:
    content = json.loads((stored / "manifest.json").read_text())
    content["quantization"]["weight_levels"][layer] = count
    (stored / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=message):
        load_model(stored)


def _trust(folder: Path) -> None:
    """Let the manifest name the weights that are there now."""
    content = json.loads((folder / "manifest.json").read_text())
    content["weights"]["sha256"] = sha256_of(folder / "weights.safetensors")
    (folder / "manifest.json").write_text(json.dumps(content))
