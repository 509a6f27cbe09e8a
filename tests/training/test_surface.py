import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)

from training.evaluation.surface import MILLIMETRE, REFERENCE_PIXEL, TOLERANCE, surface_scores
from training.phantom import draw_phantom

MASKS = hnp.arrays(bool, (14, 11))


def one_channel(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask)[None, None]  # (1, 1, H, W)


def monai_scores(first: np.ndarray, second: np.ndarray, spacing: float) -> list[float]:
    pair = one_channel(first), one_channel(second)
    return [
        compute_surface_dice(*pair, [2.0], include_background=True, spacing=spacing).item(),
        compute_hausdorff_distance(*pair, True, percentile=95, spacing=spacing).item(),
        compute_average_surface_distance(*pair, True, symmetric=True, spacing=spacing).item(),
    ]


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy")
@given(MASKS, MASKS, st.sampled_from([0.14, 0.5, 1.0, 1.7]))
def test_equals_monai_on_any_masks(first: np.ndarray, second: np.ndarray, spacing: float) -> None:
    assume(first.any() and second.any())
    ours = surface_scores(first, second, spacing)
    assert ours.unit == MILLIMETRE
    assert [ours.nsd, ours.hd95, ours.assd] == pytest.approx(
        monai_scores(first, second, spacing),
        rel=1e-5,
        abs=1e-4,  # float32 percentiles
    )


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy")
@pytest.mark.parametrize("shape", [(288, 240), (512, 512), (1024, 800)])
def test_equals_monai_on_lungs(shape: tuple[int, int]) -> None:
    true = draw_phantom(3, shape).mask("lung_field")
    predicted = np.roll(draw_phantom(3, shape).mask("whole_lung"), (4, -3), (0, 1))
    ours = surface_scores(predicted, true)
    assert ours.unit == REFERENCE_PIXEL
    assert [ours.nsd, ours.hd95, ours.assd] == pytest.approx(
        monai_scores(predicted, true, 512 / max(shape)), rel=1e-4
    )


@given(MASKS, MASKS)
def test_order_of_the_masks_does_not_matter(first: np.ndarray, second: np.ndarray) -> None:
    ours, turned = surface_scores(first, second), surface_scores(second, first)
    assert (ours.nsd, ours.hd95) == (turned.nsd, turned.hd95)
    assert ours.assd == pytest.approx(turned.assd)


def test_a_shifted_square_has_known_distances() -> None:
    true = np.zeros((512, 512), bool)
    true[100:201, 100:201] = True
    shifted = np.roll(true, 3, axis=1)
    scores = surface_scores(shifted, true)
    # 400 outline pixels each; 101 of one side and 95 of the other are 3 px from the other outline
    # (6 corner pixels of that other side are nearer to its top or bottom).
    assert scores.hd95 == 3.0
    assert scores.nsd == pytest.approx(1 - (101 + 95) / 400)
    assert surface_scores(shifted, true, 0.5).nsd == 1.0  # 1.5 mm, within 2 mm
    assert TOLERANCE == {MILLIMETRE: 2.0, REFERENCE_PIXEL: 2.0}


def test_half_the_resolution_has_the_same_distance() -> None:
    for side in (256, 512, 1024):
        true = np.zeros((side, side), bool)
        true[side // 4 : side // 2, side // 4 : side // 2] = True
        scores = surface_scores(np.roll(true, side // 64, axis=0), true)
        assert scores.hd95 == pytest.approx(8.0)


def test_misses_get_the_worst_value_and_never_nan() -> None:
    empty, full = np.zeros((300, 400), bool), np.ones((300, 400), bool)
    both = surface_scores(empty, empty)
    assert (both.nsd, both.hd95, both.assd) == (1.0, 0.0, 0.0)
    for pair in ((empty, full), (full, empty)):
        missed = surface_scores(*pair)
        assert (missed.nsd, missed.hd95, missed.assd) == (0.0, 640.0, 640.0)
        assert surface_scores(*pair, 0.5).hd95 == 250.0


def test_refusals_name_the_value() -> None:
    mask = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(2, 3\)"):
        surface_scores(mask, mask[:2])
    for spacing in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"{spacing} mm"):
            surface_scores(mask, mask, spacing)
