"""Statistics of image scores: spread, intervals, paired comparisons.

Two models are compared on the same images, image by image. A Wilcoxon test that finds no difference
does not show equality. So equality is tested by two one-sided tests against a stated margin
(Schuirmann, J Pharmacokinet Biopharm 1987;15:657).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

EQUIVALENCE_MARGIN = 0.002
"""Difference in Dice below which two models count as equal; annotators differ by 0.029."""

CONFIDENCE = 0.95
RESAMPLES = 2000
_SEED = 0
_NO_SPREAD = 1e-12  # smaller deviations are rounding; t and the bootstrap would divide by them


@dataclass(frozen=True)
class Summary:
    """Spread of one measure over the images of one data set.

    Attributes:
        n: Number of images.
        sd: Standard deviation over the images (n - 1), 0 for one image.
        percentile_5: 5th percentile, the bad cases if more is better.
        percentile_95: 95th percentile, the bad cases if less is better.
        interval: Bootstrap 95 % interval of the mean; None for one image.
    """

    n: int
    mean: float
    sd: float
    median: float
    percentile_5: float
    percentile_95: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarise at least one value.

        Raises:
            ValueError: No value, or one that is not finite.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.size == 0 or not np.isfinite(array).all():
            raise ValueError(f"a summary needs finite values, at least one; got {array}")
        return cls(
            n=len(array),
            mean=float(array.mean()),
            sd=float(array.std(ddof=1)) if len(array) > 1 else 0.0,
            median=float(np.median(array)),
            percentile_5=float(np.percentile(array, 5)),
            percentile_95=float(np.percentile(array, 95)),
            interval=mean_interval(array),
        )


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Bootstrap 95 % interval of the mean (bias corrected and accelerated, seeded).

    Images are resampled as independent, although X-rays of one patient are not quite.

    Args:
        values: One value per image, (N,).

    Returns:
        Low and high end; None for fewer than two images. If all values are equal, both ends are
        that value.
    """
    if len(values) < 2:
        return None
    if np.ptp(values) < _NO_SPREAD:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="BCa",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class PairedComparison:
    """One model against another on the same images; a difference is first minus second.

    Attributes:
        n: Number of images.
        mean: Mean difference.
        sd: Standard deviation of the differences.
        lowest: The image on which the first does worst against the second.
        interval: Bootstrap 95 % interval of the mean difference; None for one image.
        wilcoxon_p: p of the two-sided Wilcoxon signed-rank test of differences around 0; 1 if all
            are 0.
        margin: Margin of equivalence.
        tost_p: The larger p of two one-sided t-tests, that the mean difference is above -margin and
            below +margin; None for fewer than two images.
        equivalent: Whether ``tost_p`` is below 0.05: the difference is smaller than the margin.
    """

    n: int
    mean: float
    sd: float
    lowest: float
    interval: tuple[float, float] | None
    wilcoxon_p: float
    margin: float
    tost_p: float | None
    equivalent: bool


def compare_paired(
    first: Sequence[float], second: Sequence[float], margin: float = EQUIVALENCE_MARGIN
) -> PairedComparison:
    """Compare two models' scores of the same images, in the same order.

    Raises:
        ValueError: No images, other numbers of images, or a margin that is not positive.
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"{len(first)} and {len(second)} scores cannot be paired")
    if not margin > 0:
        raise ValueError(f"margin is {margin}; it must be positive")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    tost_p = equivalence_p(differences, margin)
    return PairedComparison(
        n=len(differences),
        mean=float(differences.mean()),
        sd=float(differences.std(ddof=1)) if len(differences) > 1 else 0.0,
        lowest=float(differences.min()),
        interval=mean_interval(differences),
        wilcoxon_p=float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0,
        margin=margin,
        tost_p=tost_p,
        equivalent=tost_p is not None and tost_p < 1 - CONFIDENCE,
    )


def equivalence_p(differences: NDArray[np.float64], margin: float) -> float | None:
    """Return the p value of two one-sided t-tests (TOST), or None for fewer than two values.

    A small p means that the mean difference is between -margin and +margin.

    Args:
        differences: One per image, (N,).
        margin: Positive.
    """
    if len(differences) < 2:
        return None
    if np.ptp(differences) < _NO_SPREAD:  # no spread, no t
        return 0.0 if abs(differences[0]) < margin else 1.0
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    return float(max(above, below))
