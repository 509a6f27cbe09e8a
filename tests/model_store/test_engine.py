"""The fused encoder beside the modules, and which engine is chosen where."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from model_store.artifact import load_model
from model_store.engine import choice
from model_store.engine.choice import choose_engine, engine_on_gpu, fallback_reason_of
from model_store.engine.fused_engine import (
    BATCH_SIZES,
    FusedEngine,
    cut_into_batches,
    fuse_linear_layers,
)
from model_store.engine.module_engine import ModuleEngine
from model_store.engine.widened_attention import WidenedAttention, widen_attention
from model_store.quantizable import quantizable_layers, replace_module
from model_store.sam import PromptableSam
from tests.tiny_models import images, make_tiny_model, quantized


def fused_encode(model: PromptableSam, dtype: str) -> Callable[[Tensor], Tensor]:
    pytest.importorskip("triton", reason="no Triton: the fused encoder was NOT tested")
    from model_store.engine.fused_encoder import FusedEncoder

    return FusedEncoder(model.image_encoder, dtype).forward  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{}, {"window_size": 3, "global_attn_indexes": (1,)}],
    ids=["global", "windows that do not divide the grid"],
)
def test_the_fused_encoder_computes_what_the_modules_compute(changes: dict[str, Any]) -> None:
    model = quantized(**changes)
    normalized = images(2)
    wanted = model.encode_image(normalized)
    got = fused_encode(model, "float32")(normalized)
    # A last bit may tip a rounding, which moves one token by about a step.
    assert float(((got - wanted).abs() > 1e-4).float().mean()) < 0.02
    half = fused_encode(model, "float16")(normalized)
    assert float((half - wanted).abs().mean()) < 0.03


def test_layers_that_stay_float_are_computed_in_float() -> None:
    names = [n for n in quantizable_layers(make_tiny_model()) if n.startswith("image_encoder.")]
    for kept in (names[0], "image_encoder.blocks.0.mlp.lin1", "image_encoder.blocks.1.attn.proj",
                 "image_encoder.blocks.0.attn.qkv", "image_encoder.neck.2"):  # fmt: skip
        model = quantized(float_layers=(kept,))
        normalized = images(1)
        difference = fused_encode(model, "float32")(normalized) - model.encode_image(normalized)
        assert float((difference.abs() > 1e-4).float().mean()) < 0.02, kept


def test_an_image_is_the_same_in_any_batch() -> None:
    model = quantized(window_size=3, global_attn_indexes=(1,))
    encode, together = fused_encode(model, "float16"), images(3)
    assert torch.equal(encode(together)[2:], encode(together[2:]))


def test_fused_linear_layers_can_be_undone() -> None:
    pytest.importorskip("triton", reason="no Triton: the fused layers were NOT tested")
    model = quantized()
    embedding, box = torch.randn(1, 32, 4, 4), torch.tensor([[1.0, 2.0, 50.0, 60.0]])
    engine = ModuleEngine(model)
    wanted, wanted_iou = engine.decode_box(embedding, box)
    restore = fuse_linear_layers(model.mask_decoder)
    got, iou = engine.decode_box(embedding, box)
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(iou, wanted_iou, atol=1e-3, rtol=0)
    restore()
    again, _ = engine.decode_box(embedding, box)
    assert torch.equal(again, wanted)


def test_a_layer_of_another_kind_is_refused() -> None:
    model = quantized()
    replace_module(model, "image_encoder.blocks.0.mlp.lin1", torch.nn.Identity())
    with pytest.raises(TypeError, match="Identity"):
        fused_encode(model, "float32")


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (7, [4, 2, 1]), (19, [8, 8, 2, 1]), (0, [])]
)
def test_batches_are_cut_into_recorded_sizes(count: int, sizes: list[int]) -> None:
    assert cut_into_batches(count) == sizes
    assert set(sizes) <= set(BATCH_SIZES)
    assert cut_into_batches(count, [1, 2]) == [2] * (count // 2) + [1] * (count % 2)


def test_one_image_is_recorded_first_and_larger_batches_when_there_is_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is recorded, every image of a batch gets its own embedding."""
    calls: list[int] = []
    engine = engine_without_a_gpu(monkeypatch, lambda images: calls.append(len(images)))
    images = torch.arange(11.0).view(11, 1, 1, 1).expand(11, 1, 4, 4)
    for cut in ([1] * 11, [2] * 5 + [1], [4, 4, 2, 1], [8, 2, 1]):
        calls.clear()
        assert torch.equal(engine.encode_image(images), images + 1)
        assert calls == cut
        assert engine.record_further() is (cut != [8, 2, 1])
    assert engine.batch_refusal is None


def test_a_batch_that_changes_an_image_by_a_bit_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A patient's mask must not change with its neighbours; smaller batches go on."""

    def off_in_fours(images: torch.Tensor) -> float:
        return 1e-7 if len(images) == 4 else 0.0

    engine = engine_without_a_gpu(monkeypatch, off_in_fours)
    assert engine.record_further()
    assert not engine.record_further() and not engine.record_further()
    assert engine.batch_refusal is not None and "batch of 4" in engine.batch_refusal
    images = torch.arange(7.0).view(7, 1, 1, 1).expand(7, 1, 4, 4)
    assert torch.equal(engine.encode_image(images), images + 1)


def engine_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, noted: Callable[[torch.Tensor], float | None]
) -> FusedEngine:
    """The engine with an encoder that adds 1 and what `noted` returns, and nothing recorded."""

    class Replayed:
        def __init__(self, function: Any, *examples: torch.Tensor, pool: Any) -> None:
            self.replay = function

    class Encoder:
        def __init__(self, encoder: Any) -> None:
            pass

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + 1 + (noted(images) or 0.0)

    monkeypatch.setattr("model_store.engine.captured_call.CapturedCall", Replayed)
    monkeypatch.setattr("model_store.engine.fused_encoder.FusedEncoder", Encoder)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    model = SimpleNamespace(pixel_mean=torch.zeros(1), image_encoder=None, decode_masks=None)
    return FusedEngine(model, (1, 4))  # type: ignore[arg-type]


def test_the_reason_of_a_fallback_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    if importlib.util.find_spec("triton") is not None:
        assert fallback_reason_of(device) == "the GPU has compute capability 7.0, not 8.0"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert fallback_reason_of(device) == "Triton is not installed"


def test_a_gpu_whose_kernels_fail_still_answers(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is only imitated: the model stays on the CPU, its products go the way of cuBLAS."""
    model, _ = load_model(tiny_artifact)
    monkeypatch.setattr(choice, "openvino_is_faster", lambda: False)
    wanted = choose_engine(model, 64).encode_image(images(1))
    monkeypatch.setattr(choice, "fallback_reason_of", lambda _: None)
    engine = engine_on_gpu(model, 64, integers=True)  # recording a graph fails: there is no GPU
    assert engine.name == "modules"
    assert engine.fallback_reason is not None
    assert "could not be built" in engine.fallback_reason
    torch.testing.assert_close(engine.encode_image(images(1)), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [0, 3])
def test_widened_attention_computes_sams_attention(window: int) -> None:
    changes: dict[str, Any] = {"window_size": window, "global_attn_indexes": (1,)} if window else {}
    model = make_tiny_model(**changes)
    normalized = images(2)
    with torch.inference_mode():
        wanted = model.encode_image(normalized)
        widen_attention(model.image_encoder)
        assert all(isinstance(b.attn, WidenedAttention) for b in model.image_encoder.blocks)
        got = model.encode_image(normalized)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)
    table = model.image_encoder.blocks[0].attn.rel_pos_w
    table.data.add_(1.0 * torch.arange(table.shape[0])[:, None])  # the tables do matter
    with torch.inference_mode():
        assert not torch.allclose(model.encode_image(normalized), wanted, atol=1e-3)


def test_widening_keeps_every_tensors_name() -> None:
    model = make_tiny_model()
    names = set(model.state_dict())
    widen_attention(model.image_encoder)
    assert set(model.state_dict()) == names
