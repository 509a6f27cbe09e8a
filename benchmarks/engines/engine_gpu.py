"""INT8 beside FP32 and BF16 on a GPU, within a budget of seconds.

`benchmarks.engines.engine` starts it. Every finished step is written to the JSON file at once. A
failed step is recorded and the next one starts, so an interrupted run loses one step. The encoder
gets batches of noise.
"""

from __future__ import annotations

import copy
import functools
import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.engines.random_model import int8_twin, random_float_model
from benchmarks.engines.tile_tuning import tune_attention, tune_products
from model_store.architecture import sam_config
from model_store.engine.captured_call import CapturedCall
from model_store.engine.choice import choose_engine
from model_store.engine.kernel_checks import check_everything
from model_store.engine.kernels.tuned_tiles import TunedTiles, use_tuned_tiles
from model_store.engine.widened_attention import widen_attention
from model_store.predictor import PredictionRequest, Predictor
from model_store.sam import PromptableSam
from training.evaluation.metrics import dice
from training.phantom import draw_phantom

SIZES = {"vit_b@1024": ("vit_b", 1024), "vit_b@512": ("vit_b", 512)}
Encode = Callable[[Tensor], Tensor]


class Notebook:
    """Steps within a budget; the file gets the result or the error of each step."""

    def __init__(self, path: Path | None, budget_s: float) -> None:
        self._path, self._end = path, time.monotonic() + budget_s
        self.content: dict[str, Any] = {"machine": torch.cuda.get_device_name(), "failed": {}}

    def step(self, name: str, work: Callable[[], Any], needs_s: float) -> Any:
        """Do ``work`` if the budget allows; return None otherwise."""
        left, started = self._end - time.monotonic(), time.monotonic()
        result: Any = None
        if left < needs_s:
            self.content["failed"][name] = f"not begun: {left:.0f} s left"
        else:
            try:
                result = work()
                self.content[name] = result
            except Exception:  # a border: one row must not end the others
                self.content["failed"][name] = traceback.format_exc()[-1500:]
        print(f"[{time.monotonic() - started:6.1f} s] {name}: {result or 'nothing'}", flush=True)
        if self._path is not None:
            self._path.write_text(json.dumps(self.content, indent=1, default=str, skipkeys=True))
        torch.cuda.empty_cache()
        return result


def timed(encode: Encode, batch: Tensor, rounds: int = 12) -> dict[str, float]:
    """Return milliseconds per image and peak reserved memory of a warm encoder."""
    images = batch.shape[0]
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        encode(batch)
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        encode(batch)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started) / images)
    return {"median_ms": statistics.median(times), "p95_ms": float(np.percentile(times, 95)),
            "peak_gib": torch.cuda.max_memory_reserved() / 2**30}  # fmt: skip


def bf16_encoder(model: PromptableSam, batch: Tensor, compiled: bool) -> Encode:
    """Return SAM's own encoder in BF16; compiled: fused attention, inductor and a CUDA graph."""
    encoder = copy.deepcopy(model.image_encoder).bfloat16()
    if not compiled:
        return lambda images: encoder(images.bfloat16())
    widen_attention(encoder)
    fast: Any = torch.compile(encoder, dynamic=False)
    with torch.inference_mode():
        call = CapturedCall(lambda images: (fast(images),), batch.bfloat16())
    return lambda images: call.replay(images)[0]


def encoder_rows(notebook: Notebook, label: str, variant: str, size: int) -> None:
    """Return all rows of one size, batch 1 and 8."""
    device = torch.device("cuda")
    model = random_float_model(sam_config(variant, input_size=size), device)
    twin = int8_twin(model, size)
    started = time.perf_counter()
    engine = choose_engine(twin, size)
    notebook.content[f"{label} engine"] = [
        engine.name, engine.fallback_reason, f"{time.perf_counter() - started:.1f} s to build",
    ]  # fmt: skip
    for images in (8, 1):
        batch = torch.randn(images, 3, size, size, device=device)
        peers: dict[str, tuple[Callable[[Tensor], Encode], float]] = {
            "ours INT8": (lambda _: engine.encode_image, 5),
            "FP32 eager": (lambda _: model.image_encoder, 15),
            "BF16 eager": (lambda b: bf16_encoder(model, b, False), 8),
            "BF16 compiled": (lambda b: bf16_encoder(model, b, True), 60),
        }
        for name, (build, needs_s) in peers.items():

            def row(build: Callable[[Tensor], Encode] = build, x: Tensor = batch) -> Any:
                with torch.inference_mode():
                    return timed(build(x), x)

            notebook.step(f"{label} batch {images} {name}", row, needs_s)
        if images == 8:
            look = functools.partial(profile, engine.encode_image, batch)
            notebook.step(f"{label} profile", look, 8)


def profile(encode: Encode, batch: Tensor) -> list[list[Any]]:
    """Return milliseconds of each kernel in one call, the longest first."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.inference_mode(), torch.profiler.profile(activities=activities) as profiler:
        encode(batch)
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
    return [[e.key[:60], e.count, e.self_device_time_total / 1e3] for e in events[:20]]


def default_model(folder: Path, float_folder: Path) -> dict[str, Any]:
    """Return the time from image to mask, and comparisons of masks of CPU, GPU and FP32."""
    ours, cpu = Predictor.load(folder, "cuda"), Predictor.load(folder, "cpu")
    exact = Predictor.load(float_folder, "cuda")
    requests = [PredictionRequest(draw_phantom(seed, (1024, 1024)).image) for seed in range(4)]
    equal, scores = [], []
    for request in requests:
        masks = [p.predict(request).masks[0].mask for p in (ours, cpu, exact)]
        equal.append(float((masks[0] == masks[1]).mean()))
        scores.append(dice(masks[0], masks[2]))
    report: dict[str, Any] = {"engine": ours.info.engine, "fallback": ours.info.fallback_reason,
                              "pixels_as_on_cpu": equal, "dice_against_fp32": scores}  # fmt: skip
    for name, predictor in (("INT8", ours), ("FP32", exact)):
        stages = [predictor.predict(requests[0]).stage_seconds for _ in range(12)][2:]
        report[name] = {s: 1e3 * statistics.median(r[s] for r in stages) for s in stages[0]}
    return report


def measure_gpu(folders: tuple[Path, Path], budget_s: float, path: Path | None) -> int:
    """Check, tune and time; print a line per step and one JSON line last.

    Returns:
        1 if a step failed or was not begun.
    """
    notebook, device = Notebook(path, budget_s), torch.device("cuda")
    notebook.step("default model", lambda: default_model(*folders), 20)
    products = notebook.step("products", lambda: tune_products(device, budget_s / 5), 60) or {}
    attention = notebook.step("attention", lambda: tune_attention(device, budget_s / 8), 40) or {}
    table = TunedTiles(products.get("table", {}), attention.get("table", {}))
    notebook.content["tuned_tiles.json"] = table.to_json()
    use_tuned_tiles(table)
    for label, (variant, size) in SIZES.items():
        rows = functools.partial(encoder_rows, notebook, label, variant, size)
        notebook.step(f"{label} all rows", rows, 30)
    checks = notebook.step("checks", lambda: [c.__dict__ for c in check_everything(device)], 20)
    wrong = [check["name"] for check in checks or [] if not check["passed"]]
    print("checks that failed:", wrong)
    print(json.dumps({**notebook.content, "checks": wrong}, default=str, skipkeys=True))
    return 1 if wrong or notebook.content["failed"] else 0
