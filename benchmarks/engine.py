"""INT8 beside FP32 of the stored model, encoder alone and image to mask, interleaved.

On a GPU every kernel is compared with its definition first. The ratio is what counts.

    python -m benchmarks.engine --device cpu --rounds 15
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
            predictor._engine.encode_image(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


def main() -> int:
    """Print the table, and one JSON line last; 1 when a kernel fails its check."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--model", type=Path, default=MODELS / "cxr-lung-tiny" / "1")
    parser.add_argument("--float_model", type=Path, default=MODELS / "cxr-lung-tiny-float" / "1")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device, failed = choose_device(options.device), []
    machine = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    print(f"{machine}, {torch.get_num_threads()} threads")
    if device.type == "cuda":
        from model_store.engine.kernel_checks import check_everything

        failed = [check for check in check_everything(device) if not check.passed]
        print(f"kernel checks: {len(failed)} failed", *failed, sep="\n  ")
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
                      "fallback": info.fallback_reason,
                      "failed_checks": [check.name for check in failed]}))  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
