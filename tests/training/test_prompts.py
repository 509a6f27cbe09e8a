import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.prompts import PromptMix, draw_prompt, jitter_box, lungs_meant, tight_box

BOUNDS = (0.0, 0.0, 64.0, 64.0)


def make_lungs() -> np.ndarray:
    lungs = np.zeros((2, 64, 64), bool)
    lungs[0, 10:50, 5:25] = True
    lungs[1, 10:50, 35:60] = True
    return lungs


def test_the_tight_box_is_half_open() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    assert tight_box(mask) == (3.0, 2.0, 9.0, 5.0)
    assert tight_box(np.zeros((4, 4), bool)) is None


@pytest.mark.parametrize(
    ("box", "meant"),
    [
        (BOUNDS, (True, True)),
        ((5, 10, 25, 50), (True, False)),
        ((30, 0, 64, 64), (False, True)),
        ((5, 10, 25, 29), (False, False)),  # less than half of the lung
        ((5, 10, 25, 31), (True, False)),  # just over half
        ((26, 0, 34, 64), (False, False)),  # between the lungs
    ],
)
def test_a_box_means_the_lungs_that_lie_in_it(
    box: tuple[float, float, float, float], meant: tuple[bool, bool]
) -> None:
    assert tuple(lungs_meant(box, make_lungs())) == meant


def test_an_empty_lung_is_never_meant() -> None:
    lungs = make_lungs()
    lungs[1] = 0
    assert tuple(lungs_meant(BOUNDS, lungs)) == (True, False)


@given(st.integers(0, 10_000))
def test_every_prompt_lies_in_the_image_and_keeps_its_meaning(seed: int) -> None:
    rng = np.random.default_rng(seed)
    box, meant = draw_prompt(make_lungs(), BOUNDS, PromptMix(), rng)
    assert 0 <= box[0] < box[2] <= 64 and 0 <= box[1] < box[3] <= 64
    assert tuple(meant) == tuple(lungs_meant(box, make_lungs()))


def test_the_mix_is_followed() -> None:
    rng = np.random.default_rng(0)
    mix = PromptMix(both=0, single=1, whole_image=0, anywhere=0, jitter=0)
    meant = [tuple(draw_prompt(make_lungs(), BOUNDS, mix, rng)[1]) for _ in range(50)]
    assert set(meant) == {(True, False), (False, True)}


def test_tight_boxes_end_where_the_mask_ends() -> None:
    rng = np.random.default_rng(0)
    exact = (5.0, 10.0, 60.0, 50.0)
    for tight, expected in ((0.0, 0), (1.0, 200), (0.5, 100)):
        mix = PromptMix(both=1, single=0, whole_image=0, anywhere=0, tight=tight)
        boxes = [draw_prompt(make_lungs(), BOUNDS, mix, rng)[0] for _ in range(200)]
        assert boxes.count(exact) == pytest.approx(expected, abs=25 if tight == 0.5 else 0)


def test_lungs_out_of_the_picture_fall_back_to_all_of_it() -> None:
    rng = np.random.default_rng(0)
    mix = PromptMix(both=1, single=0, whole_image=0, anywhere=0)
    box, meant = draw_prompt(np.zeros((2, 64, 64), bool), BOUNDS, mix, rng)
    assert box == BOUNDS and not meant.any()


@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_jitter_stays_inside(seed: int, deviation: float) -> None:
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = jitter_box((10, 10, 50, 40), deviation, BOUNDS, rng)
    assert x0 >= 0 and x1 <= 64 and y0 >= 0 and y1 <= 64 and x1 - x0 >= 1 and y1 - y0 >= 1


@pytest.mark.parametrize(
    "shares",
    [{"both": 0.9}, {"both": -0.1, "single": 0.77}, {"jitter": 0.6}, {"tight": 1.5}],
)
def test_a_mix_that_cannot_be_is_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="prompt"):
        PromptMix(**shares)
