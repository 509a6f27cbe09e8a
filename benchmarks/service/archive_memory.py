"""Whether memory stays constant over an archive of many X-rays.

    python -m benchmarks.service.archive_memory --xrays 100000

Runs `python -m service.archive` over small X-rays: many names for a few phantoms of 96 x 96 pixels,
and a model of 64 pixels with random weights. So the number of X-rays matters and not their size.
Memory is the PSS of driver, Ray and actors together. It is read at equal intervals after the first
tenth of the X-rays, and a straight line is fitted to the values. The exit code is 1 if an X-ray has
no row, or if the slope is above 50 MB over 100,000 X-rays.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.processor import processor_name
from benchmarks.service.process_memory import process_tree, pss_bytes
from model_store.architecture import build_sam, sam_config
from training.export import write_deployed
from training.phantom.drawing import draw_phantom
from training.quantization.config import QatConfig
from training.quantization.fake_quantization import sampling
from training.stages.qat_stage import QatStage

MOST_MB_PER_100_000 = 50.0
_PHANTOMS, _SIDE_PX = 16, 96
_MODEL = {
    "input_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "prompt_dim": 32,
    "decoder_heads": 2, "decoder_mlp_dim": 32, "iou_head_hidden_dim": 16,
}  # fmt: skip
_LOOKS = 100
_LONGEST_NAME = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the archive, print each reading as a line of JSON, and the slope last.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        Exit code of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--xrays", type=int, default=100_000)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--rows-per-part", type=int, default=200)
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_names(folder, flags.xrays)
        write_small_model(folder / "model")
        looks, told = _watched(folder, flags)
    slope = mb_per_100_000([look[0] for look in looks], [look[1] for look in looks])
    report = {
        "processor": processor_name(),
        "xrays": told["xrays"],
        "failed": told["failed"],
        "looks": len(looks),
        "first_mb": round(looks[0][1] / 1e6, 1),
        "last_mb": round(looks[-1][1] / 1e6, 1),
        "mb_per_100_000_xrays": round(slope, 1),
    }
    print(json.dumps(report))
    is_whole = told["xrays"] == flags.xrays and told["failed"] == 0
    return 0 if is_whole and slope <= MOST_MB_PER_100_000 else 1


def mb_per_100_000(xrays: Sequence[float], memory_bytes: Sequence[float]) -> float:
    """Return the slope of a straight line through the readings, in MB for 100,000 X-rays."""
    slope = np.polyfit(np.asarray(xrays, float), np.asarray(memory_bytes, float), 1)[0]
    return float(slope) * 100_000 / 1e6


def write_names(folder: Path, count: int) -> None:
    """Write a few phantoms, and a table with this many names for them."""
    names = folder / "in"
    names.mkdir(parents=True)
    for seed in range(_PHANTOMS):
        picture = Image.fromarray(draw_phantom(seed, (_SIDE_PX, _SIDE_PX)).image)
        picture.save(folder / f"{seed}.png")
    lines = ["input"]
    for number in range(count):
        link = names / f"{number:08}.png"
        link.symlink_to(folder / f"{number % _PHANTOMS}.png")
        lines.append(f"in/{link.name}")
    (folder / "names.csv").write_text("\n".join(lines) + "\n")


def write_small_model(out: Path) -> None:
    """Write an INT8 model of 64 pixels with random weights."""
    torch.manual_seed(0)
    config = sam_config("vit_t", **_MODEL)
    model = build_sam(config).eval()
    stage = QatStage(model, QatConfig())
    with torch.no_grad(), sampling(stage.layers.values()):
        pixels = torch.rand(2, 1, 64, 64) * 255
        boxes = torch.tensor([[4.0, 4.0, 60.0, 60.0]] * 2)
        model(model.normalize(pixels), boxes, torch.arange(2))
    write_deployed(model, config, out, name="small", version="1")


def _watched(
    folder: Path, flags: argparse.Namespace
) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """Run the command; return X-rays done and bytes at each reading, and its output."""
    command = [sys.executable, "-m", "service.archive", "--input", str(folder / "names.csv")]
    command += ["--output", str(folder / "out"), "--model", str(_only_model(folder / "model"))]
    command += ["--actors", str(flags.actors), "--rows-per-part", str(flags.rows_per_part)]
    command += ["--contact-sheet", "0"]
    looks: list[tuple[int, int]] = []
    distance = max(1, flags.xrays // _LOOKS)
    results = folder / "out" / "results"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        wanted = flags.xrays // 10
        while run.poll() is None:
            time.sleep(0.5)
            parts = len(list(results.glob("part-*.parquet"))) if results.exists() else 0
            done = parts * flags.rows_per_part
            if wanted <= done < flags.xrays:
                tree = {each: pss_bytes(each) for each in process_tree(run.pid)}
                looks.append((done, sum(tree.values())))
                largest = {_name_of(pid): round(tree[pid] / 1e6) for pid in _largest(tree)}
                print(json.dumps({"done": done, "mb": round(looks[-1][1] / 1e6, 1), **largest}),
                      flush=True)  # fmt: skip
                wanted = done + distance
        assert run.stdout is not None
        said = run.stdout.read()
    if run.returncode not in (0, 3) or len(looks) < 2:
        raise SystemExit(f"the archive ended with exit code {run.returncode}, {len(looks)} looks")
    told: dict[str, int] = json.loads(said.splitlines()[-1])
    return looks, told


def _only_model(folder: Path) -> Path:
    """Return the only folder with a manifest."""
    return next(folder.rglob("manifest.json")).parent


def _largest(tree: dict[int, int]) -> list[int]:
    return sorted(tree, key=lambda each: -tree[each])[:4]


def _name_of(process: int) -> str:
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return f"{process} ended"
    return f"{process} {words.split('/')[-1][:_LONGEST_NAME].strip()}"


if __name__ == "__main__":
    sys.exit(main())
