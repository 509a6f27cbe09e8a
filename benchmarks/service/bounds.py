"""The upper bound of a machine: the pipeline without a network, and the network alone.

Both run in the same processes as in the service: the pipeline in one process for each image worker,
the network in one for each device. A service without overhead reaches the smaller rate.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.compute.visible_gpus import environment_of

BATCHES = (1, 4, 8)


def network_rates(
    model: Path | None, image: Path, devices: Sequence[str], seconds: float, logits: Path
) -> dict[str, float]:
    """Measure the network alone, on all devices at once.

    Args:
        model: model folder; the default model when None.
        image: PNG file of the X-ray.
        devices: `cpu`, `cuda` or `cuda:N`, one process each.
        seconds: length of each measurement.
        logits: where the logits of the X-ray are written, as NumPy's file.

    Returns:
        X-rays a second in batches of each of `BATCHES`.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    processes = [
        _started(
            {
                "part": "network",
                "model": None if model is None else str(model),
                "image": str(image),
                "device": device.partition(":")[0],
                "kinds": BATCHES,
                "seconds": seconds,
                "logits": str(logits),
            },
            environment_of(device, visible),
        )
        for device in devices
    ]
    rates = _together(processes, len(BATCHES))
    return {f"network_per_s_batch_{size}": rate for size, rate in zip(BATCHES, rates, strict=True)}


def pipeline_rates(
    image: Path,
    input_size: int,
    processes: int,
    seconds: float,
    overlays: Sequence[str],
    logits: Path,
) -> list[float]:
    """Measure decoding, preparing, masks and rendering without a network.

    Args:
        image: PNG file of the X-ray.
        input_size: side of the network's input, pixels.
        processes: number of concurrent processes.
        seconds: length of each measurement.
        overlays: `true`, `jpeg` or `false`, as in the form.
        logits: file with the network's logits, written by `network_rates`.

    Returns:
        X-rays a second of all processes together, for each kind of overlay.
    """
    plan = {
        "part": "pipeline",
        "image": str(image),
        "input_size": input_size,
        "seconds": seconds,
        "kinds": overlays,
        "logits": str(logits),
    }
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return _together([_started(plan, one_thread) for _ in range(processes)], len(overlays))


def _started(plan: Mapping[str, Any], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.service.bound_process", json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def _together(processes: Sequence[subprocess.Popen[str]], kinds: int) -> list[float]:
    """Measure each kind in all processes at once; return the sums of their rates."""
    rates: list[float] = []
    for _ in range(kinds):
        for process in processes:
            _line_of(process)  # it is ready for this kind
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        reached = [float(_line_of(process)) for process in processes]
        rates.append(round(sum(reached), 1))
    for process in processes:
        process.communicate()
    return rates


def _line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process of the bound ended; its error stands above")
    return line
