"""OpenVINO beside the definition: integer products to the bit, everything around them closely."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny_models import images, quantized

pytest.importorskip("openvino", reason="no OpenVINO: its engine was NOT tested")

from openvino import Model, opset13

from model_store.engine import choice, openvino_checks, openvino_encoder, openvino_layers
from model_store.engine.choice import choose_engine
from model_store.engine.module_engine import ModuleEngine
from model_store.engine.openvino_checks import (
    CONVOLUTION_SHAPES,
    GENERAL_PRIMITIVE,
    LINEAR_SHAPES,
    InexactError,
    check_products,
    executed_products,
    require_integer_products,
)
from model_store.engine.openvino_engine import OpenVinoEngine, compile_config, shared_core
from model_store.engine.openvino_layers import (
    LinearProduct,
    is_exact_convolved,
    linear,
    pointwise_linear,
    quantize,
)
from model_store.int8_layers import Int8Conv2d, Int8Linear, Int8Matrix
from model_store.integers import WEIGHT_LIMIT, ZERO_POINT, quantize_activation
from model_store.predictor import Predictor
from model_store.quantizable import quantizable_layers
from model_store.sam import PromptableSam

PRODUCTS = (linear, pointwise_linear)
"""Each is what some processors execute; every one can compute both."""

WINDOWS: dict[str, Any] = {"window_size": 3, "global_attn_indexes": (1,)}
BOX = torch.tensor([[3.0, 5.0, 50.0, 61.0]])
WHOLE = torch.tensor([[0.0, 0.0, 64.0, 64.0]])


def three_channels(**changes: Any) -> dict[str, Any]:
    statistics = {"pixel_mean": (120.0, 110.0, 100.0), "pixel_std": (60.0, 58.0, 55.0)}
    return {"in_channels": 3, **statistics, **changes}


def assert_embeddings_agree(got: Tensor, wanted: Tensor) -> None:
    """Most images to the last bits, none by more than a few steps.

    A processor adds floats in its own order, and a last bit can tip the rounding of an activation;
    attention then carries that step to every token of the image. Of 64 images 5 to 8 do so under
    AVX2, where an engine that computes something else moves all of them.
    """
    moved = (got - wanted).abs().flatten(1).amax(dim=1)
    assert float((moved < 1e-4).float().mean()) >= 0.5
    assert float(moved.max()) < 0.2


@pytest.fixture(scope="module")
def model() -> PromptableSam:
    return quantized(**WINDOWS)


@pytest.fixture(scope="module")
def engine(model: PromptableSam) -> OpenVinoEngine:
    return OpenVinoEngine(model, 64)


@pytest.mark.parametrize("threads", [1, 2])
def test_integer_products_are_exact(threads: int) -> None:
    config = compile_config(threads)
    check_products(shared_core(), config, LINEAR_SHAPES, CONVOLUTION_SHAPES, PRODUCTS)


def run_limited(instruction_set: str, code: str) -> str:
    """Runs Python as a processor of that oneDNN instruction set would; returns what it prints."""
    environment = {
        **os.environ, "ONEDNN_MAX_CPU_ISA": instruction_set, "PYTHONPATH": os.pathsep.join(sys.path)
    }  # fmt: skip
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("instruction_set", ["AVX512_CORE", "AVX2", "SSE41"])
def test_integer_products_are_exact_on_older_processors(instruction_set: str) -> None:
    """Weights of ±63 keep the pair sums of processors without VNNI below the limit of int16."""
    run_limited(
        instruction_set,
        """
from model_store.engine import openvino_checks as checks, openvino_layers as layers
from model_store.engine.openvino_engine import compile_config, shared_core

products = layers.linear, layers.pointwise_linear
shapes = checks.LINEAR_SHAPES, checks.CONVOLUTION_SHAPES
checks.check_products(shared_core(), compile_config(1), *shapes, products)
""",
    )


def test_with_avx2_alone_rows_are_multiplied_as_convolutions() -> None:
    """Its general product of rows is half as fast; none of the encoder is left to it."""
    printed = run_limited(
        "AVX2",
        """
from model_store.engine.openvino_checks import executed_products, fastest_linear
from model_store.engine.openvino_encoder import encoder_graph
from model_store.engine.openvino_engine import compile_config, shared_core
from tests.tiny_models import quantized

core, config = shared_core(), compile_config(1)
product = fastest_linear(core, config)
compiled = core.compile_model(encoder_graph(quantized(), 64, product), "CPU", config)
print(product.__name__, {found.primitive for found in executed_products(compiled)})
""",
    )
    assert printed.startswith("pointwise_linear")
    assert GENERAL_PRIMITIVE not in printed


@pytest.mark.parametrize("terms", [1044, 1045])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_that_a_convolution_would_round_is_left_to_rows(terms: int, sign: int) -> None:
    weight = torch.full((32, terms), sign * WEIGHT_LIMIT, dtype=torch.int8)
    matrix = Int8Matrix(weight, torch.ones(32), torch.ones(()), None)
    values = torch.full((16, terms), 127.0)
    values[:, 0] = torch.arange(16) + 100  # odd sums among them, which float32 rounds above 2**24
    entry = opset13.parameter(list(values.shape), np.float32)
    layer = Int8Linear(matrix)
    graph = Model([pointwise_linear(quantize(entry, layer), layer)], [entry], "large")
    compiled = shared_core().compile_model(graph, "CPU", compile_config(1))
    wanted = values.long() @ weight.long().T
    assert torch.equal(torch.from_numpy(compiled([values.numpy()])[0]).long(), wanted)
    (product,) = executed_products(compiled)
    assert product.kind == ("Convolution" if terms == 1044 else "FullyConnected")
    assert is_exact_convolved(matrix) == (terms == 1044)


def test_a_convolution_that_would_round_is_refused() -> None:
    matrix = Int8Matrix(
        torch.full((8, 1152), 63).to(torch.int8), torch.ones(8), torch.ones(()), None
    )
    entry = opset13.parameter([1, 128, 8, 8], np.float32)
    with pytest.raises(ValueError, match=r"\(8, 1152\) weights could pass"):
        openvino_layers.convolution(entry, Int8Conv2d(matrix, 3, 1, 1))


def test_a_wrong_accumulator_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    accumulators = openvino_checks._accumulators

    def off_by_one(values: Tensor, matrix: Int8Matrix) -> Tensor:
        found = accumulators(values, matrix)
        found[0, 0] += 1
        return found

    monkeypatch.setattr(openvino_checks, "_accumulators", off_by_one)
    with pytest.raises(InexactError, match="off by 1"):
        check_products(shared_core(), compile_config(1), LINEAR_SHAPES[:1], ())


def test_a_layer_that_runs_in_float_is_noticed() -> None:
    """A weight whose input is not quantized is multiplied in float; nothing else says so."""
    matrix = Int8Matrix(torch.ones(32, 64, dtype=torch.int8), torch.ones(32), torch.ones(()), None)
    layer = Int8Linear(matrix)
    entry = opset13.parameter([16, 64], np.float32)
    silent = Model([linear(entry, layer)], [entry], "silent")
    compiled = shared_core().compile_model(silent, "CPU", compile_config(1))
    with pytest.raises(InexactError, match="silent: 0 of 1 integer layers"):
        require_integer_products(silent, compiled, "silent")
    sound = Model([linear(quantize(entry, layer), layer)], [entry], "sound")
    compiled = shared_core().compile_model(sound, "CPU", compile_config(1))
    require_integer_products(sound, compiled, "sound")
    assert [product.precision for product in executed_products(compiled)] == ["i8"]


@pytest.mark.parametrize("step", [0.0371234, 0.018044185, 1.0, 2.0**-5, 3e-5])
def test_activations_are_rounded_as_defined(step: float) -> None:
    """All but a few in a million, and none of those by more than one step."""
    scale, side = torch.tensor(step), 256
    identity = Int8Matrix(torch.eye(side).to(torch.int8), 1 / scale.expand(side), scale, None)
    layer = Int8Linear(identity)
    entry = opset13.parameter([2048, side], np.float32)
    graph = Model([linear(quantize(entry, layer), layer)], [entry], "rounding")
    values = torch.randn(2048, side, generator=torch.Generator().manual_seed(5)) * 60 * scale
    exact_halves = torch.arange(-128, 128) + 0.5
    values[0] = exact_halves * scale
    compiled = shared_core().compile_model(graph, "CPU", compile_config(1))
    got = np.rint(compiled([values.numpy()])[0])
    wanted = quantize_activation(values, scale).int().numpy() - ZERO_POINT
    assert np.abs(got - wanted).max() <= 1
    assert (got[1:] != wanted[1:]).mean() < 1e-5
    if np.log2(step) % 1 == 0:  # the reciprocal is exact, so the halves are as well
        assert np.array_equal(got[0], wanted[0])


@pytest.mark.parametrize("product", PRODUCTS)
def test_scale_and_bias_are_applied_as_defined(product: LinearProduct) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randint(-63, 64, (512, 768), generator=generator, dtype=torch.int8)
    scale, step = torch.rand(512, generator=generator) * 2e-3 + 1e-3, torch.tensor(2.0**-4)
    bias = torch.randn(512, generator=generator)
    layer = Int8Linear(Int8Matrix(weight, scale, step, bias))
    values = torch.randn(256, 768, generator=generator) * 2
    entry = opset13.parameter([256, 768], np.float32)
    rows = slice(64, 448)
    graph = Model([product(quantize(entry, layer), layer, rows)], [entry], "dequantization")
    compiled = shared_core().compile_model(graph, "CPU", compile_config(1))
    got, wanted = compiled([values.numpy()])[0], layer(values)[:, rows].numpy()
    # The step is a power of two, so every rounding is the definition's; what is left is float32.
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        WINDOWS,
        three_channels(window_size=2),
        {"box_as_mask": True},
        {"box_shift_px": 0.5},
    ],
    ids=[
        "global",
        "windows that do not divide the grid",
        "three channels, windows that do",
        "box as a mask",
        "SAM's boxes",
    ],
)
@pytest.mark.parametrize("product", PRODUCTS)
def test_the_graphs_compute_what_the_modules_compute(
    changes: dict[str, Any], product: LinearProduct
) -> None:
    model = quantized(**changes)
    fast, plain = OpenVinoEngine(model, 64, product), ModuleEngine(model)
    normalized = images(16, int(model.pixel_mean.shape[1]))
    wanted = plain.encode_image(normalized)
    assert_embeddings_agree(fast.encode_image(normalized), wanted)
    for box in (BOX, WHOLE):
        for got, expected in zip(
            fast.decode_box(wanted[:1], box), plain.decode_box(wanted[:1], box), strict=True
        ):
            assert got.shape == expected.shape
            torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("product", PRODUCTS)
def test_layers_that_stay_float_are_computed_in_float(product: LinearProduct) -> None:
    names = quantizable_layers(quantized())
    assert not names  # all are integers
    kept = ("image_encoder.patch_embed.proj", "image_encoder.blocks.0.mlp.lin1",
            "image_encoder.blocks.1.attn.proj", "image_encoder.blocks.0.attn.qkv",
            "image_encoder.neck.2", "mask_decoder.transformer.layers.0.mlp.lin1")  # fmt: skip
    model = quantized(float_layers=kept)
    fast, plain = OpenVinoEngine(model, 64, product), ModuleEngine(model)
    wanted = plain.encode_image(images(16))
    assert_embeddings_agree(fast.encode_image(images(16)), wanted)
    got, _ = fast.decode_box(wanted[:1], BOX)
    torch.testing.assert_close(got, plain.decode_box(wanted[:1], BOX)[0], atol=2e-3, rtol=1e-3)


def test_results_depend_on_nothing_else(model: PromptableSam, engine: OpenVinoEngine) -> None:
    """Not on the batch, the run, the number of threads, or who asks at the same time."""
    together = images(4)
    wanted = engine.encode_image(together)
    alone = [engine.encode_image(image) for image in torch.split(together, 1)]
    assert torch.equal(torch.cat(alone), wanted)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(OpenVinoEngine(model, 64).encode_image(together), wanted)
    finally:
        torch.set_num_threads(threads)

    def ask(index: int) -> bool:
        embedding = engine.encode_image(together[index % 4 : index % 4 + 1])
        logits, _ = engine.decode_box(wanted[index % 4 : index % 4 + 1], BOX)
        same_logits = torch.equal(logits, first_logits[index % 4])
        return torch.equal(embedding, wanted[index % 4 : index % 4 + 1]) and same_logits

    first_logits = [engine.decode_box(image, BOX)[0] for image in torch.split(wanted, 1)]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(32)))


def test_heads_may_be_attended_to_one_by_one(
    model: PromptableSam, engine: OpenVinoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_encoder, "LARGEST_BIAS_BYTES", 1)
    assert torch.equal(
        OpenVinoEngine(model, 64).encode_image(images(1)), engine.encode_image(images(1))
    )


def test_a_layer_of_another_kind_is_refused() -> None:
    for apply in (openvino_layers.linear, openvino_layers.convolution):
        with pytest.raises(TypeError, match="Identity"):
            apply(opset13.parameter([1, 4], np.float32), torch.nn.Identity())


@pytest.fixture
def fast_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "openvino_is_faster", lambda: True)


@pytest.mark.usefixtures("fast_processor")
def test_it_is_chosen_and_named(tiny_artifact: Path) -> None:
    info = Predictor.load(tiny_artifact, "cpu").info
    assert (info.engine, info.fallback_reason) == ("openvino", None)


def _raise(*_: object, **__: object) -> None:
    raise InexactError("an accumulator is off by 7")


@pytest.mark.usefixtures("fast_processor")
@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda patch: patch.setattr(importlib.util, "find_spec", lambda _: None), "not installed"),
        (lambda patch: patch.setattr(
            "model_store.engine.openvino_engine.check_products", _raise), "off by 7"),
    ],
    ids=["missing", "wrong"],
)  # fmt: skip
def test_without_it_the_modules_answer(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None], reason: str,
) -> None:  # fmt: skip
    wanted = Predictor.load(tiny_artifact, "cpu").engine.encode_image(images(16))
    break_it(monkeypatch)
    predictor = Predictor.load(tiny_artifact, "cpu")
    assert predictor.info.engine == "modules"
    assert predictor.info.fallback_reason is not None and reason in predictor.info.fallback_reason
    assert_embeddings_agree(predictor.engine.encode_image(images(16)), wanted)


def test_processors_where_it_is_not_faster_keep_the_modules(
    monkeypatch: pytest.MonkeyPatch, model: PromptableSam
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    engine = choose_engine(model, 64)
    assert (engine.name, engine.fallback_reason) == ("modules", None)


def test_signals_are_handled_after_an_engine_is_gone() -> None:
    """The last engine may go in another thread than the one that loaded OpenVINO."""
    code = """
import gc, os, signal, threading
from tests.tiny_models import quantized
from model_store.engine.openvino_engine import OpenVinoEngine

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
engines = [OpenVinoEngine(quantized(), 64)]
thread = threading.Thread(target=lambda: (engines.clear(), gc.collect()))
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
