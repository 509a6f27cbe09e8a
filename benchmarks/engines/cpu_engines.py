"""CPU time of an integer model on one thread: PyTorch's layers and OpenVINO.

OpenVINO's encoder is measured twice: with linear layers as matrix products and as 1 x 1
convolutions. The output names the variant that is served on this processor.

    python -m benchmarks.engines.cpu_engines FOLDER --limit AVX2

Each number is the least CPU time of some calls, which other work on the machine disturbs less than
wall time. Variables of oneDNN and PyTorch restrict a separate process to the instructions of older
processors. It also prints the time from logits to pixels, by two matrices and in strips.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.processor import processor_name
from model_store.architecture import SamConfig
from model_store.artifact import load_model
from model_store.engine.module_engine import layer_by_layer
from model_store.engine.openvino_checks import fastest_linear
from model_store.engine.openvino_engine import OpenVinoEngine, compile_config, shared_core
from model_store.engine.openvino_layers import LinearProduct, linear, pointwise_linear
from model_store.engine.protocol import Engine
from model_store.geometry import InputGeometry
from model_store.logit_resampling import logits_to_image
from model_store.mask_resampling import logits_above

LIMITS = {
    "none": {},
    "AVX512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
}
"""``AVX512`` is without VNNI."""

NAMES: dict[LinearProduct, str] = {linear: "rows", pointwise_linear: "convolutions"}

IMAGE_SIZES = ((1024, 1024), (2048, 2500))


def main() -> int:
    """Print the figures of each limit, and one JSON line last."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.cpu_engines", description=__doc__
    )
    parser.add_argument("model", type=Path, help="folder of an INT8 model")
    parser.add_argument("--limit", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.model, options.calls)))
        return 0
    served = fastest_linear(shared_core(), compile_config(1))
    print(f"{processor_name()}; served: {NAMES[served]}")
    report = {}
    for limit in options.limit:
        command = [
            sys.executable,
            "-m",
            "benchmarks.engines.cpu_engines",
            str(options.model),
            "--measure",
        ]
        environment = {**os.environ, **LIMITS[limit]}
        done = subprocess.run(
            [*command, "--calls", str(options.calls)],
            env=environment, check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        report[limit] = json.loads(done.stdout.splitlines()[-1])
        figures = ", ".join(f"{name} {value:.2f} ms" for name, value in report[limit].items())
        print(f"limit {limit}: {figures}", flush=True)
    print(json.dumps(report))
    return 0


def measure(folder: Path, calls: int) -> dict[str, float]:
    """Return CPU milliseconds by name, in this limited process."""
    torch.set_num_threads(1)
    model, manifest = load_model(folder)
    config = SamConfig.from_dict(manifest.architecture)
    side = config.input_size
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, config.in_channels, side, side, generator=generator)
    embedding = torch.randn(1, config.prompt_dim, *[config.grid_size] * 2, generator=generator)
    box = torch.tensor([[0.1 * side, 0.1 * side, 0.9 * side, 0.9 * side]])
    engines: dict[str, Engine] = {
        "modules": layer_by_layer(model),
        "rows": OpenVinoEngine(model, side, linear),
        "convolutions": OpenVinoEngine(model, side, pointwise_linear),
    }
    found: dict[str, float] = {}
    with torch.inference_mode():
        for name, engine in engines.items():
            found[f"encoder {name}"] = least_ms(
                lambda e=engine: e.encode_image(image), calls  # type: ignore[misc]
            )  # fmt: skip
        for name in ("modules", "rows"):  # the decoder always uses matrix products
            found[f"decoder {name}"] = least_ms(
                lambda e=engines[name]: e.decode_box(embedding, box), calls  # type: ignore[misc]
            )  # fmt: skip
        logits = torch.randn(*[4 * config.grid_size] * 2, generator=generator)
        for width, height in IMAGE_SIZES:
            geometry = InputGeometry(width, height, side)
            found[f"matrices {width} x {height}"] = least_ms(
                lambda g=geometry: (logits_to_image(logits, g) > 0).numpy(), calls  # type: ignore[misc]
            )  # fmt: skip
            found[f"strips {width} x {height}"] = least_ms(
                lambda g=geometry: logits_above(logits.numpy(), g, 0.0), calls  # type: ignore[misc]
            )  # fmt: skip
    return found


def least_ms(call: Callable[[], object], calls: int) -> float:
    """Return the least CPU time of some calls after a first, in milliseconds."""
    call()
    times = []
    for _ in range(calls):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return 1e3 * float(np.min(times))


if __name__ == "__main__":
    sys.exit(main())
