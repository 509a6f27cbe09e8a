"""Distances of perceptual hashes: between patients, and between copies of one X-ray.

``python -m benchmarks.quality.duplicate_distances --data DATA`` prints the basis of
`training.prepare.duplicates.LARGEST_DISTANCE`.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from training.prepare.duplicates import LARGEST_DISTANCE, perceptual_hash

EVERY = 14
"""One of this many X-rays is copied."""


def _jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.resize((224, 224)).save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("L")


def _cut(image: Image.Image) -> Image.Image:
    width, height = image.size
    x, y = width // 50, height // 50
    return image.crop((x, y, width - x, height - y))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "256 x 256 pixels": lambda i: i.resize((256, 256), Image.Resampling.BILINEAR),
    "JPEG 60 of 224 x 224": _jpeg,
    "equalized": ImageOps.equalize,
    "gamma 0.6": lambda i: i.point([int(255 * (v / 255) ** 0.6) for v in range(256)]),
    "brighter, clipped": lambda i: i.point([min(255, int(1.2 * v + 10)) for v in range(256)]),
    "cut by 2 % at each edge": _cut,
}


def main() -> None:
    """Print the distances."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    data = parser.parse_args().data
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    hashes: list[NDArray[np.uint64]] = []
    copied: dict[str, list[int]] = {name: [] for name in COPIES}
    for index, record in enumerate(records):
        path = data / record["split"] / "images" / f"{record['name']}.jpg"
        with Image.open(path) as opened:
            image = opened.convert("L")
        hashes.append(perceptual_hash(image))
        if index % EVERY == 0:
            for name, copy in COPIES.items():
                copied[name].append(_distance(hashes[-1], perceptual_hash(copy(image))))
    nearest = _nearest_other(np.stack(hashes), [record["group"] for record in records])
    print(f"{len(records)} X-rays, bits of 256; up to {LARGEST_DISTANCE} count as one X-ray")
    print(f"{'':<26}{'least':>8}{'median':>8}{'largest':>8}{'found':>8}")
    for name, distances in {"nearest other patient": nearest, **copied}.items():
        found = np.mean(np.array(distances) <= LARGEST_DISTANCE)
        print(f"{name:<26}{min(distances):>8}{np.median(distances):>8.0f}{max(distances):>8}"
              f"{found:>8.1%}")  # fmt: skip


def _distance(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> int:
    return int(np.bitwise_count(first ^ second).sum())


def _nearest_other(hashes: NDArray[np.uint64], groups: list[str]) -> list[int]:
    """Return the distance of each X-ray to the nearest of another patient."""
    group = np.array(groups)
    nearest = []
    for own, name in zip(hashes, groups, strict=True):
        distance = np.bitwise_count(hashes ^ own).sum(axis=1)
        nearest.append(int(distance[group != name].min()))
    return nearest


if __name__ == "__main__":
    main()
