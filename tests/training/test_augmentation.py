import numpy as np
import pytest

from model_store.geometry import InputGeometry
from training.data.augmentation import AugmentConfig, AugmentedXray, augment

NO_AUGMENTATION = AugmentConfig(
    scale_range=(1.0, 1.0), aspect_deviation=0, rotation_degrees=0, shift_share=0,
    elastic=0, unmoved=1, mirror=0, gamma_deviation=0, contrast_range=(1.0, 1.0), brightness=0,
    invert=0, equalize=0, shading=0, blur=0, noise_deviation=0, border=0, marks=0,
    devices=0,
)  # fmt: skip
"""Samples exactly as serving would see them."""


def make_sample(height: int = 120, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on dark ground, its left and right half as the two lungs."""
    rows, columns = np.mgrid[0:height, 0:width]
    disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (width / 3) ** 2
    lungs = np.stack([disc & (columns < width / 2), disc & (columns >= width / 2)])
    return np.where(disc, 220, 30).astype(np.uint8), lungs


GEOMETRY_ONLY = AugmentConfig(
    unmoved=0, mirror=0, gamma_deviation=0, contrast_range=(1.0, 1.0), brightness=0, invert=0,
    equalize=0, shading=0, blur=0, noise_deviation=0, border=0, marks=0, devices=0,
)  # fmt: skip


def augmented(config: AugmentConfig, seed: int = 0) -> AugmentedXray:
    return augment(*make_sample(), 64, config, np.random.default_rng(seed))


def test_without_changes_training_sees_what_serving_sees() -> None:
    image, _ = make_sample()
    seen = augmented(NO_AUGMENTATION)
    geometry = InputGeometry(width=96, height=120, input_size=64)
    served = geometry.image_to_input(image).astype(float)
    # One interpolates at pixel centres, the other averages; only edges may differ.
    difference = np.abs(seen.pixels - served)
    assert np.median(difference) <= 1.0
    assert (difference > 60).mean() < 0.02
    assert np.array_equal(seen.valid > 0, geometry.valid_region() > 0)


@pytest.mark.parametrize("seed", range(12))
def test_lungs_move_with_the_image(seed: int) -> None:
    seen = augmented(GEOMETRY_ONLY, seed)
    drawn = seen.lungs.astype(int).sum(axis=0) > 127
    assert float(((seen.pixels > 125) == drawn).mean()) > 0.99


def test_a_mirrored_left_lung_is_the_right_one() -> None:
    config = AugmentConfig(**{**vars(NO_AUGMENTATION), "mirror": 1.0})
    plain, flipped = augmented(NO_AUGMENTATION), augmented(config)
    assert np.array_equal(flipped.lungs[0], plain.lungs[1, :, ::-1])
    assert np.array_equal(flipped.pixels, plain.pixels[:, ::-1])
    assert np.array_equal(flipped.valid, plain.valid[:, ::-1])


def test_a_smooth_displacement_bends_image_and_lungs_alike() -> None:
    stiff = augmented(GEOMETRY_ONLY, 7)
    bent = augmented(AugmentConfig(**{**vars(GEOMETRY_ONLY), "elastic": 0.03}), 7)
    lungs = bent.lungs.astype(int).sum(axis=0) > 127
    assert float(((bent.pixels > 125) == lungs).mean()) > 0.99
    moved = (lungs != (stiff.lungs.astype(int).sum(axis=0) > 127)).mean()
    assert 0.003 < moved < 0.2


def test_a_sample_never_depends_on_what_was_made_before_it() -> None:
    first, other, again = (augmented(AugmentConfig(), seed) for seed in (3, 4, 3))
    assert np.array_equal(first.pixels, again.pixels) and np.array_equal(first.lungs, again.lungs)
    assert not np.array_equal(first.pixels, other.pixels)


def test_noise_stays_within_its_largest_deviation() -> None:
    grey = np.full((400, 400), 128, np.uint8)
    config = AugmentConfig(**{**vars(NO_AUGMENTATION), "noise_deviation": 0.06})
    no_lungs = np.zeros((2, 400, 400), bool)
    seen = augment(grey, no_lungs, 400, config, np.random.default_rng(5))
    measured = seen.pixels.std() / 255
    assert 0 < measured <= 0.06
    assert abs(float(seen.pixels.mean()) - 128) < 0.5


@pytest.mark.parametrize("seed", range(20))
def test_padding_stays_empty(seed: int) -> None:
    everything = AugmentConfig(
        unmoved=0, mirror=0.5, invert=0.5, equalize=0.5, shading=1, blur=1, border=1, marks=1,
        devices=1, noise_deviation=0.3,
    )  # fmt: skip
    seen = augmented(everything, seed)
    assert all(plane.dtype == np.uint8 for plane in (seen.pixels, seen.valid, seen.lungs))
    padding = seen.valid == 0
    assert not seen.pixels[padding].any() and not seen.lungs[:, padding].any()


@pytest.mark.parametrize(
    "values",
    [
        {"scale_range": (1.2, 0.8)},
        {"contrast_range": (0.0, 1.0)},
        {"mirror": 1.5},
        {"elastic": 0.2},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        AugmentConfig(**values)  # type: ignore[arg-type]
