"""The distance of a mask's shape from the shapes of human lung masks.

A mask is cropped to its bounding box and scaled to 24 x 24 cells, so that size and position do not
matter. Its distance from the human masks is that of a Gaussian with few directions (probabilistic
PCA, Tipping and Bishop 1999). It has two terms. One is the mean square of the coordinates along the
first 16 principal components, in units of their deviation. The other is the unexplained rest, in
units of that of human masks. Human masks have a distance of 2 on average. The aspect ratio of the
box is measured separately, in deviations of its logarithm.

`python -m benchmarks.quality.lung_shapes --data DATA` makes the file from human masks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.opencv import cv2

CELLS = 24
COMPONENTS = 16
SHAPES_FILE = Path(__file__).with_name("lung_shapes.npz")

Cells = NDArray[np.float64]


@dataclass(frozen=True)
class LungShapes:
    """The distribution of the shapes of human lung masks.

    Attributes:
        mean: share of each cell that is lung, on average, (CELLS * CELLS,).
        directions: principal components, orthonormal, (COMPONENTS, CELLS * CELLS).
        variances: variance along each, (COMPONENTS,).
        rest: mean square of the unexplained rest.
        proportion: mean of log(width / height) of the bounding boxes.
        proportion_deviation: its standard deviation.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    variances: NDArray[np.float64]
    rest: float
    proportion: float
    proportion_deviation: float

    def distance(self, cells: Cells) -> float:
        """Return the distance of a shape from human lung masks, which have 2 on average.

        Args:
            cells: share of each cell that is lung, (CELLS, CELLS).
        """
        offset = cells.ravel() - self.mean
        along = self.directions @ offset
        rest = float(np.sum(offset**2) - np.sum(along**2))
        return float(np.mean(along**2 / self.variances)) + rest / self.rest

    def proportion_deviations(self, width: float, height: float) -> float:
        """Return by how many deviations a bounding box is wider (above 0) than the mean."""
        return float((np.log(width / height) - self.proportion) / self.proportion_deviation)


def shape_of(mask: NDArray[np.bool_]) -> tuple[Cells, int, int]:
    """Return a mask's shape and the size of its bounding box.

    Args:
        mask: (h, w) bool, not empty.

    Returns:
        Share of each cell that is lung, (CELLS, CELLS), and width and height in samples.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scaled = cv2.resize(box.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return scaled.astype(np.float64), box.shape[1], box.shape[0]


def fit_lung_shapes(
    shapes: NDArray[np.float64], proportions: NDArray[np.float64], weights: NDArray[np.float64]
) -> LungShapes:
    """Return the distribution of the shapes of masks.

    Args:
        shapes: one mask in each row, (n, CELLS * CELLS).
        proportions: log(width / height) of each, (n,).
        weights: weight of each, with the sum 1, (n,).
    """
    mean = weights @ shapes
    offsets = shapes - mean
    _, spread, directions = np.linalg.svd(offsets * np.sqrt(weights)[:, None], full_matrices=False)
    directions = directions[:COMPONENTS]
    unexplained = np.sum(offsets**2, axis=1) - np.sum((offsets @ directions.T) ** 2, axis=1)
    proportion = float(weights @ proportions)
    return LungShapes(
        mean,
        directions,
        spread[:COMPONENTS] ** 2,
        float(weights @ unexplained),
        proportion,
        float(np.sqrt(weights @ (proportions - proportion) ** 2)),
    )


def save_lung_shapes(shapes: LungShapes, path: Path) -> None:
    """Write the shapes; directions and mean in 16 bits change no distance by 0.01."""
    np.savez_compressed(
        path,
        mean=shapes.mean.astype(np.float16),
        directions=shapes.directions.astype(np.float16),
        variances=shapes.variances,
        rest=shapes.rest,
        proportion=shapes.proportion,
        proportion_deviation=shapes.proportion_deviation,
    )


@functools.cache
def load_lung_shapes() -> LungShapes:
    """Return the shapes in the service's package, read once."""
    with np.load(SHAPES_FILE, allow_pickle=False) as stored:
        return LungShapes(
            stored["mean"].astype(np.float64),
            stored["directions"].astype(np.float64),
            stored["variances"],
            float(stored["rest"]),
            float(stored["proportion"]),
            float(stored["proportion_deviation"]),
        )
