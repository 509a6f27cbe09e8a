import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.evaluation.scores import ImageScore
from training.evaluation.statistics import (
    EQUIVALENCE_MARGIN,
    Summary,
    compare_paired,
    equivalence_p,
    mean_interval,
)
from training.evaluation.tables import compare_models, summarise


def test_a_summary_of_known_values() -> None:
    summary = Summary.of([0.9, 0.8, 1.0])
    assert (summary.n, summary.median) == (3, 0.9)
    assert summary.mean == pytest.approx(0.9)
    assert summary.sd == pytest.approx(0.1)
    assert summary.percentile_5 == pytest.approx(0.81)
    assert summary.percentile_95 == pytest.approx(0.99)
    assert summary.interval is not None
    assert summary.interval[0] < 0.9 < summary.interval[1]


def test_one_value_has_no_spread_and_no_interval() -> None:
    summary = Summary.of([0.5])
    assert (summary.mean, summary.sd, summary.interval) == (0.5, 0.0, None)


def test_equal_values_have_an_interval_of_one_point() -> None:
    assert Summary.of([1.0] * 5).interval == (1.0, 1.0)


@pytest.mark.parametrize("values", [[], [0.9, float("nan")]])
def test_a_miss_cannot_be_dropped_as_nan(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        Summary.of(values)


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    """95 % of intervals of normal samples hold the mean; 3.5 standard errors of 200 draws."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low_high = mean_interval(rng.normal(0.9, 0.05, 40))
        assert low_high is not None
        hits += low_high[0] <= 0.9 <= low_high[1]
    assert hits / 200 == pytest.approx(0.95, abs=0.055)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_interval_is_the_same_each_time(values: list[float]) -> None:
    array = np.array(values)
    first = mean_interval(array)
    assert first is not None and first == mean_interval(array)
    assert np.isfinite(first).all()
    assert array.min() - 1e-9 <= first[0] <= first[1] <= array.max() + 1e-9


def test_equal_models_are_equivalent() -> None:
    same = [0.9, 0.95, 0.97]
    found = compare_paired(same, same)
    assert (found.mean, found.wilcoxon_p, found.tost_p, found.equivalent) == (0.0, 1.0, 0.0, True)
    assert found.margin == EQUIVALENCE_MARGIN


def test_no_significant_difference_is_not_equality() -> None:
    """Few, scattered images: Wilcoxon finds nothing, and the test of equality says so too."""
    second = np.full(6, 0.95)
    first = second + np.array([0.01, -0.012, 0.008, -0.009, 0.011, -0.01])
    found = compare_paired(first.tolist(), second.tolist())
    assert found.wilcoxon_p > 0.5
    assert not found.equivalent


def test_a_tiny_but_certain_difference_is_significant_and_equivalent() -> None:
    rng = np.random.default_rng(1)
    second = rng.uniform(0.9, 0.98, 200)
    found = compare_paired((second - 0.0005 + rng.normal(0, 1e-4, 200)).tolist(), second.tolist())
    assert found.wilcoxon_p < 1e-10
    assert found.equivalent
    assert found.interval is not None and -0.002 < found.interval[0] < found.interval[1] < 0


def test_a_loss_beyond_the_margin_is_not_equivalent() -> None:
    second = np.linspace(0.9, 0.98, 50)
    assert not compare_paired((second - 0.003).tolist(), second.tolist()).equivalent
    assert compare_paired((second - 0.003).tolist(), second.tolist(), 0.004).equivalent


def test_tost_is_the_two_t_tests() -> None:
    differences = np.random.default_rng(2).normal(0.0005, 0.002, 30)
    t = (differences.mean() - np.array([-0.002, 0.002])) / stats.sem(differences)
    wanted = max(stats.t.sf(t[0], 29), stats.t.cdf(t[1], 29))
    assert equivalence_p(differences, 0.002) == pytest.approx(wanted)
    assert equivalence_p(differences[:1], 0.002) is None


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ValueError, match="2 and 1 scores"):
        compare_paired([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match=r"margin is 0\.0"):
        compare_paired([0.1], [0.1], 0.0)


def test_wilcoxon_is_the_exact_signed_rank_test() -> None:
    """Six gains of six: of 2**6 ways to sign the ranks one is as extreme, on either side."""
    gains = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    found = compare_paired([0.9 + gain for gain in gains], [0.9] * 6)
    assert found.wilcoxon_p == pytest.approx(2 / 2**6)
    mixed = compare_paired([0.89, 0.92, 0.93, 0.94, 0.95, 0.96], [0.9] * 6)
    assert mixed.wilcoxon_p == pytest.approx(4 / 2**6)  # rank 1 against: one sum more extreme


def test_a_data_set_is_never_pooled_with_another() -> None:
    def scores(source: str, values: list[float]) -> list[ImageScore]:
        return [
            ImageScore(f"{source}{place}", source, model, "own_box", value, value)
            for model in ("int8", "fp32")
            for place, value in enumerate(values)
        ]

    easy, hard = scores("easy", [0.99, 0.98]), scores("hard", [0.5, 0.7, 0.0])
    table = summarise(easy + hard)
    assert table == {**summarise(easy), **summarise(hard)}
    assert table["hard"]["own_box"]["int8"]["dice"]["mean"] == pytest.approx(0.4)  # a miss counts
    assert list(compare_models([*easy, *hard, *others(easy), *others(hard)], "int8", "fp32")) == [
        "easy", "hard",
    ]  # fmt: skip


def others(scores: list[ImageScore]) -> list[ImageScore]:
    return [dataclasses.replace(s, box="whole_image") for s in scores]
