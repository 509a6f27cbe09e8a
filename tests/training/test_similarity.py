import numpy as np
import pytest
import torch
from monai.metrics.regression import SSIMMetric

from training.evaluation.similarity import map_similarity, outline_band
from training.phantom import draw_phantom


def soft_mask(side: int = 512, shift: int = 0) -> np.ndarray:
    mask = draw_phantom(5, (side, side)).mask("lung_field").astype(np.float32)
    return np.roll(mask * 0.98 + 0.01, shift, axis=1)


def test_equal_maps_are_fully_similar() -> None:
    found = map_similarity(soft_mask(), soft_mask())
    assert (found.whole, found.band) == (1.0, 1.0)


def test_the_whole_equals_monais_metric() -> None:
    rng = np.random.default_rng(0)
    first = soft_mask()
    second = np.clip(first + rng.normal(0, 0.05, first.shape), 0, 1).astype(np.float32)
    metric = SSIMMetric(spatial_dims=2, data_range=1.0)
    wanted = metric(torch.from_numpy(first)[None, None], torch.from_numpy(second)[None, None])
    assert map_similarity(first, second).whole == pytest.approx(wanted.item(), abs=1e-5)


def test_a_moved_outline_shows_in_the_band_more_than_in_the_whole() -> None:
    found = map_similarity(soft_mask(), soft_mask(shift=2))
    assert found.band < found.whole - 0.1
    further = map_similarity(soft_mask(), soft_mask(shift=4))
    assert further.band < found.band


@pytest.mark.parametrize("shape", [(7, 2000), (30, 20), (600, 333)])
def test_any_shape_has_a_similarity(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, *shape), dtype=np.float32)
    found = map_similarity(first, second)
    assert -1 <= found.whole < 0.9 and np.isfinite(found.band)


def test_without_an_outline_the_whole_stands_in() -> None:
    nothing = np.full((64, 64), 0.01, np.float32)
    found = map_similarity(nothing, nothing + 0.02)
    assert found.band == found.whole < 1.0


def test_the_band_follows_the_outline_and_not_the_images_edge() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:, 20:] = True
    band = outline_band(mask[None], 3)
    assert band[:, 17:23].all() and not band[:, :17].any() and not band[:, 23:].any()
    assert not outline_band(np.ones((1, 5, 5), bool), 3).any()
