"""Make the service's file of lung shapes from human masks of `train`.

Each data set has the same weight, because most of `train` are children of one hospital. It prints
the distances of the human masks of `val`, which are not used for the file.

    python -m benchmarks.quality.lung_shapes --data DATA [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.imaging.lung_shapes import fit_lung_shapes, save_lung_shapes, shape_of
from service.imaging.mask_grid import sampled
from training.data.dataset import read_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write, and print the distances of `val`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.lung_shapes")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--out", type=Path, help="the file to write, .npz; none writes nothing")
    options = parser.parse_args(arguments)
    shapes, proportions, sources = human_shapes(options.data, "train")
    counts = Counter(sources)
    weights = np.array([1.0 / (counts[source] * len(counts)) for source in sources])
    fitted = fit_lung_shapes(shapes, proportions, weights)
    if options.out:
        save_lung_shapes(fitted, options.out)
    others, their_proportions, _ = human_shapes(options.data, "val")
    distances = [fitted.distance(one) for one in others]
    deviations = np.abs(their_proportions - fitted.proportion) / fitted.proportion_deviation
    table = {
        "train": len(shapes),
        "val": len(others),
        "distance": dict(zip(("50", "95", "100"), quantiles(distances), strict=True)),
        "proportion": dict(zip(("50", "95", "100"), quantiles(deviations), strict=True)),
    }
    print(json.dumps(table))
    return 0


def human_shapes(
    data: Path, split: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Return shapes (n, cells), logarithms of width over height (n,) and data sets."""
    shapes, proportions, sources = [], [], []
    for row in read_rows(data, split):
        with Image.open(row.mask_path) as image:
            mask = np.asarray(image.convert("L")) > 0
        cells, width, height = shape_of(sampled(mask))
        shapes.append(cells.ravel())
        proportions.append(np.log(width / height))
        sources.append(row.source)
    return np.array(shapes), np.array(proportions), sources


def quantiles(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """Return median, 95th percentile and largest value."""
    return [round(float(value), 2) for value in np.quantile(values, (0.5, 0.95, 1.0))]


if __name__ == "__main__":
    sys.exit(main())
