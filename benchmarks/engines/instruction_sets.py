"""Results on older processors and other engines: integer products are equal, masks almost.

Each instruction set runs in its own process, limited by variables of oneDNN and PyTorch, with the
engine chosen there and layer by layer. The output has the largest error of PyTorch's integer
product of 768 extreme terms, with weights of ±63 (the scheme) and of ±127 (which saturate). It also
has the share of mask pixels equal to this processor's best, layer by layer and with the chosen
engine.

    python -m benchmarks.engines.instruction_sets --data DATA --count 20
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.processor import processor_name
from model_store.artifact import load_model
from model_store.engine.module_engine import layer_by_layer
from model_store.int8_layers import Int8Matrix
from model_store.integers import reference_accumulate
from model_store.model_index import default_model_folder
from model_store.predictor import PredictionRequest, Predictor
from training.data.dataset import DataRow, load_xray, read_rows

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
SSE41 = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
RUNS = {
    "best, layer by layer": ({}, ["--layer_by_layer"]),
    "AVX2, layer by layer": (AVX2, ["--layer_by_layer"]),
    "SSE4.1, layer by layer": (SSE41, ["--layer_by_layer"]),
    "best, as chosen": ({}, []),
    "AVX2, as chosen": (AVX2, []),
}


def largest_error(limit: int) -> int:
    """Return the largest difference of the CPU's product from int64, with weights of ±limit."""
    weight = torch.full((192, 768), limit, dtype=torch.int8)
    weight[1::2] = -limit
    activation = torch.zeros((256, 768), dtype=torch.uint8)
    activation[0::2] = 255
    matrix = Int8Matrix(weight, torch.ones(192), torch.ones(()), None)
    matrix.use_backend("cpu")
    difference = matrix.accumulate(activation).long() - reference_accumulate(activation, weight)
    return int(difference.abs().max())


def chosen_rows(data: Path, count: int) -> list[DataRow]:
    """Return the first rows of each source of ``val``."""
    rows = read_rows(data, "val")
    sources = sorted({row.source for row in rows})
    return [r for s in sources for r in [row for row in rows if row.source == s][:count]]


def measure(options: argparse.Namespace) -> None:
    """Predict in this limited process, and store masks and errors."""
    model, manifest = load_model(options.model)
    engine = layer_by_layer(model) if options.layer_by_layer else None
    predictor = Predictor(model, manifest, torch.device("cpu"), engine=engine)
    masks = [
        predictor.predict(PredictionRequest(load_xray(row).image, (), row.convention)).masks[0].mask
        for row in chosen_rows(options.data, options.count)
    ]
    named = {f"mask{index}": mask for index, mask in enumerate(masks)}
    errors = np.array([largest_error(63), largest_error(127)])
    engine_name = np.array(predictor.info.engine)
    np.savez(options.measure_into, allow_pickle=False, errors=errors, engine=engine_name, **named)


def main() -> int:
    """Print a line per instruction set, and one JSON line last."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.instruction_sets", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="data set with manifest.csv")
    parser.add_argument("--model", type=Path, default=default_model_folder())
    parser.add_argument("--count", type=int, default=20, help="X-rays of each source of val")
    parser.add_argument("--layer_by_layer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure_into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_into is not None:
        measure(options)
        return 0
    report: dict[str, dict[str, Any]] = {}
    print(processor_name())
    with tempfile.TemporaryDirectory() as folder:
        first: dict[str, list[np.ndarray]] = {}  # of each engine, on this processor's best
        for name, (limits, flags) in RUNS.items():
            out = Path(folder) / f"{len(report)}.npz"
            command = [
                sys.executable,
                "-m",
                "benchmarks.engines.instruction_sets",
                *sys.argv[1:],
                *flags,
            ]
            subprocess.run(
                [*command, "--measure_into", str(out)], env={**os.environ, **limits}, check=True
            )
            with np.load(out) as stored:
                engine = str(stored["engine"])
                masks = [stored[f"mask{i}"] for i in range(len(stored.files) - 2)]
                exact, trap = (int(error) for error in stored["errors"])
            first.setdefault(engine, masks)
            report[name] = {"engine": engine, "error_63": exact, "error_127": trap}
            print(f"{name} ({engine}): error with ±63: {exact}, with ±127: {trap}")
            for other, others in first.items():
                equal = [float((a == b).mean()) for a, b in zip(others, masks, strict=True)]
                report[name][f"agreement_with_{other}"] = {
                    "mean": float(np.mean(equal)), "least": min(equal)
                }  # fmt: skip
                print(
                    f"    equal pixels with {other} on the best, over {len(masks)} X-rays: "
                    f"mean {100 * np.mean(equal):.3f} %, least {100 * min(equal):.3f} %"
                )
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
