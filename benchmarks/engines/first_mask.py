"""Load a stored model in this fresh process and predict one mask.

`benchmarks.engines.full_size` starts it. Prints one JSON object: seconds of importing, loading and
the first mask, and memory after each. ``anonymous`` is the process's own memory. ``mapped`` is
shared with files on disk (libraries and mapped weights), which the system may drop when memory is
short.

    python -m benchmarks.engines.first_mask FOLDER
"""

from __future__ import annotations

import time

_BEGAN = time.perf_counter()

import argparse  # noqa: E402 - the imports are what is timed
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from model_store.predictor import PredictionRequest, Predictor  # noqa: E402


def memory_mib(weights: Path | None = None) -> dict[str, float]:
    """Return this process's memory in MiB.

    Args:
        weights: A file; ``weights_mapped`` is its mapped and resident part.
    """
    sizes = _fields(Path("/proc/self/smaps_rollup").read_text())
    peak = _fields(Path("/proc/self/status").read_text())["VmHWM"]
    found = {
        "resident": sizes["Rss"],
        "anonymous": sizes["Anonymous"],
        "mapped": sizes["Rss"] - sizes["Anonymous"],
        "peak": peak,
    }
    if weights is not None:
        found["weights_mapped"] = _resident_of_file(weights)
    return found


def _fields(text: str) -> dict[str, float]:
    pairs = (line.split(":") for line in text.splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) / 1024 for name, value in pairs}


def _resident_of_file(path: Path) -> float:
    """Sum the resident part of all mappings of a file."""
    total, inside = 0.0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            inside = line.endswith(str(path.resolve()))
        elif inside and first == "Rss:":
            total += int(line.split()[1]) / 1024
    return total


def main() -> int:
    """Print the figures as one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines.first_mask", description=__doc__
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    image = np.array(Image.open(folder / "golden_image.png"))
    memory, weights = {"imported": memory_mib()}, folder / "weights.safetensors"
    imported = time.perf_counter()
    predictor = Predictor.load(folder, "cpu")
    loaded = time.perf_counter()
    memory["loaded"] = memory_mib(weights)
    predictor.predict(PredictionRequest(image))
    drawn = time.perf_counter()
    memory["drawn"] = memory_mib(weights)
    report: dict[str, Any] = {
        "import_s": imported - _BEGAN,
        "load_s": loaded - imported,
        "first_mask_s": drawn - loaded,
        "engine": predictor.engine.name,
        "memory_mib": memory,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
