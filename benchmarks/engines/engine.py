"""This project's engine against other engines, interleaved; compare the ratios.

    python -m benchmarks.engines.engine --budget-seconds 900
    python -m benchmarks.engines.engine --quick
    python -m benchmarks.engines.engine --device cuda --budget-seconds 380 --json rows.json

On a CPU every row runs in a process of its own (`benchmarks.engines.row_process`). Models that are
not stored are made with random weights in ``--workspace``, for later runs, too. Other engines come
with the ``bench`` extra; a row whose package is missing names the command that installs it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines.engine_cpu import LARGEST_ROUNDS, CpuBenchmark, ModelPair
from benchmarks.engines.engine_rows import plain
from benchmarks.engines.peers.known_peers import PEERS
from benchmarks.engines.random_model import write_random_models
from benchmarks.processor import processor_name
from model_store.architecture import sam_config
from model_store.artifact import read_manifest
from model_store.model_index import default_model_folder
from model_store.predictor import choose_device

STORED = "cxr-lung-tiny"
RANDOM_SIZES = {"vit_b@512": ("vit_b", 512), "vit_b@1024": ("vit_b", 1024)}
PACKAGES = ("torch", "onnxruntime", "openvino", "nncf")
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, then JSON; return 1 if nothing was measured or a GPU step fails."""
    options = _parser().parse_args(arguments)
    folder = options.model or default_model_folder()
    twin = options.float_model or float_twin(folder)
    if choose_device(options.device).type == "cuda":
        from benchmarks.engines.engine_gpu import measure_gpu

        return measure_gpu((folder, twin), options.budget_seconds or 380.0, options.json)
    threads = options.threads or len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for the rows' processes
    machine = machine_facts(threads)
    stored = read_manifest(folder)
    print(f"{STORED}: {stored.name} {stored.version}")
    print("; ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    models, batches = options.models, options.batches
    rounds, budget_s = LARGEST_ROUNDS, options.budget_seconds or 900.0
    if options.quick:
        models, batches, rounds, budget_s = [STORED], [1], 3, 60.0
    with tempfile.TemporaryDirectory() as temporary:
        workspace = options.workspace or Path(temporary)
        workspace.mkdir(parents=True, exist_ok=True)
        pairs = [model_pair(name, folder, twin, workspace) for name in models]
        benchmark = CpuBenchmark(workspace, options.peers, threads, budget_s, rounds)
        # Small cells first, so that the large ones get the rest of the budget.
        cells = [(pair, batch) for batch in batches for pair in pairs]
        for index, (pair, batch) in enumerate(cells):
            benchmark.measure(pair, batch, len(cells) - index)
    report = {
        "machine": machine,
        "stored_model": f"{stored.name}/{stored.version}",
        "ceiling_gops": statistics.median(benchmark.ceilings or [0.0]) / 1e9,
        "notes": benchmark.notes.lines,
        "rows": plain(benchmark.rows),
    }
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1))
    print(json.dumps(report))
    return 0 if benchmark.rows else 1


def float_twin(folder: Path) -> Path:
    """Return the float twin that a manifest names, stored beside its model."""
    named = read_manifest(folder).float_twin or f"{folder.parent.name}-float/{folder.name}"
    return folder.parents[1] / named


def model_pair(name: str, folder: Path, twin: Path, workspace: Path) -> ModelPair:
    """Return the stored pair, or one with random weights, made if missing."""
    if name == STORED:
        return ModelPair(name, folder, twin)
    variant, size = RANDOM_SIZES[name]
    config = sam_config(variant, input_size=size)
    return ModelPair(name, *write_random_models(config, workspace / "models"))


def machine_facts(threads: int) -> dict[str, Any]:
    """Return the facts about the machine that belong to a time."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        text = ""
    known = set(text.partition("flags")[2].partition("\n")[0].split())
    facts: dict[str, Any] = {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "instructions": " ".join(flag for flag in FLAGS if flag in known),
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = None
    return facts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.engine", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    names = [STORED, *RANDOM_SIZES]
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--model", type=Path, help="INT8 model (default: the newest stored)")
    parser.add_argument("--float_model", type=Path, help="its twin (default: as its manifest says)")
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--threads", type=int, help="default: all cores allowed")
    parser.add_argument("--budget-seconds", type=float, help="default: 900, on a GPU 380")
    parser.add_argument("--quick", action="store_true", help="stored model, batch 1, 3 rounds")
    parser.add_argument("--workspace", type=Path, help="keeps random models and exported graphs")
    parser.add_argument("--json", type=Path, help="file for the rows")
    return parser


if __name__ == "__main__":
    sys.exit(main())
