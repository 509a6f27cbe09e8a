"""INT8 beside FP32 of the stored model, encoder alone and image to mask, interleaved.

The ratio is what counts. On a GPU, `benchmarks.engine_gpu` does more, within a budget of seconds.

    python -m benchmarks.engine --device cpu --rounds 15
    python -m benchmarks.engine --device cuda --budget-seconds 380 --json rows.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.server_process import processor_name
from model_store.predictor import PredictionRequest, Predictor, choose_device
from training.metrics import dice
from training.phantom import draw_phantom

MODELS = Path(__file__).parents[1] / "model_store" / "models"


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each round, after one warm-up; all calls in every round."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - started))
    return times


def stage_call(predictor: Predictor, request: PredictionRequest, images: int) -> Callable[[], None]:
    """A call that takes X-rays from pixels to masks; stages wait for the device."""

    def call() -> None:
        predictor.predict_batch([request] * images)

    return call


def encoder_call(predictor: Predictor, images: int, size: int) -> Callable[[], None]:
    """A call that runs the encoder on a batch of noise."""
    device = predictor.model.pixel_mean.device
    channels = predictor.model.pixel_mean.shape[1]
    batch = torch.randn(images, channels, size, size, device=device)

    def call() -> None:
        with torch.inference_mode():
            predictor.engine.encode_image(batch)

    return call


def main() -> int:
    """Print the table, and one JSON line last; 1 when a step on a GPU fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--model", type=Path, default=MODELS / "cxr-lung-tiny" / "1")
    parser.add_argument("--float_model", type=Path, default=MODELS / "cxr-lung-tiny-float" / "1")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget-seconds", type=float, default=380.0, help="on a GPU")
    parser.add_argument("--json", type=Path, help="file for the rows of a GPU, written as they end")
    options = parser.parse_args()
    device = choose_device(options.device)
    if device.type == "cuda":
        from benchmarks.engine_gpu import measure_gpu

        folders = (options.model, options.float_model)
        return measure_gpu(folders, options.budget_seconds, options.json)
    machine = processor_name()
    print(f"{machine}, {torch.get_num_threads()} threads")
    predictors = {
        name: Predictor.load(folder, device.type)
        for name, folder in (("INT8", options.model), ("FP32", options.float_model))
    }
    request = PredictionRequest(draw_phantom(11, (1024, 1024)).image)
    masks = [p.predict(request).masks[0].mask for p in predictors.values()]
    agreement = dice(masks[0], masks[1])
    rows = []
    for images in (1, 8):
        calls: dict[str, Callable[[], object]] = {}
        for name, predictor in predictors.items():
            size = int(predictor.info.manifest.architecture["input_size"])
            calls[f"{name} encoder"] = encoder_call(predictor, images, size)
            calls[f"{name} image to mask"] = stage_call(predictor, request, images)
        for name, times in interleaved(calls, options.rounds).items():
            median = statistics.median(times) / images
            p95 = float(np.percentile(times, 95)) / images
            rows.append({"row": name, "batch": images, "median_ms": median, "p95_ms": p95})
            print(f"{name:<20} batch {images}  {median:8.2f} ms  95th percentile {p95:8.2f} ms")
    info = predictors["INT8"].info
    print(
        f"engine {info.engine}, fallback {info.fallback_reason}; Dice against FP32 {agreement:.4f}"
    )
    print(json.dumps({"machine": machine, "engine": info.engine, "dice": agreement, "rows": rows,
                      "fallback": info.fallback_reason}))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
