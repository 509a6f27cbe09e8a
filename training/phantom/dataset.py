"""A data set of synthetic chest phantoms, to run the whole chain without X-rays."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from model_store.conventions import CONVENTIONS
from training.phantom import draw_phantom

_COLUMNS = ("name", "split", "source", "convention", "group", "license", "width", "height")


def write_phantom_dataset(root: Path, counts: Mapping[str, int], longest_side: int = 288) -> None:
    """Write phantoms in the layout of `training.data.dataset`, with alternating conventions.

    Args:
        root: Folder of the data set.
        counts: Number of phantoms of each split.
        longest_side: Longest side of the largest phantom, in pixels.
    """
    records: list[tuple[object, ...]] = []
    for split, count in counts.items():
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            seed = len(records)
            convention = CONVENTIONS[seed % len(CONVENTIONS)]
            name = f"phantom_{seed:05d}"
            sides = np.random.default_rng(seed).integers(3 * longest_side // 4, longest_side + 1, 2)
            height, width = int(sides[0]), int(sides[1])
            phantom = draw_phantom(seed, (height, width))
            mask = Image.fromarray(phantom.mask(convention).astype(np.uint8) * 255)
            Image.fromarray(phantom.image).save(root / split / "images" / f"{name}.jpg", quality=90)
            mask.convert("1").save(root / split / "masks" / f"{name}.png")
            source = f"phantom_{convention}"
            records.append((name, split, source, convention, name, "CC0-1.0", width, height))
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(records)
