import numpy as np
import pytest
import torch

from model_store.geometry import InputGeometry
from training.augmentation import NO_AUGMENTATION, AugmentConfig, augment_batch


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


def test_without_changes_training_sees_what_serving_sees() -> None:
    image, lungs = make_sample()
    batch = augment_batch([image], [lungs], 64, NO_AUGMENTATION, [np.random.default_rng(0)])
    geometry = InputGeometry(width=96, height=120, input_size=64)
    served = geometry.image_to_input(image).astype(float)
    # One interpolates at pixel centres, the other averages; only edges may differ.
    difference = np.abs(batch.pixels[0, 0].numpy() - served)
    assert np.median(difference) <= 1.0
    assert (difference > 60).mean() < 0.02
    assert np.array_equal(batch.valid[0, 0].numpy() > 0, geometry.valid_region() > 0)


@pytest.mark.parametrize("seed", range(12))
def test_lungs_move_with_the_image(seed: int) -> None:
    image, lungs = make_sample()
    batch = augment_batch([image], [lungs], 64, GEOMETRY_ONLY, [np.random.default_rng(seed)])
    bright = batch.pixels[0, 0] > 125
    drawn = batch.lungs[0].sum(dim=0) > 0.5
    assert float((bright == drawn).float().mean()) > 0.99


def test_a_mirrored_left_lung_is_the_right_one() -> None:
    image, lungs = make_sample()
    config = AugmentConfig(**{**vars(NO_AUGMENTATION), "mirror": 1.0})
    plain = augment_batch([image], [lungs], 64, NO_AUGMENTATION, [np.random.default_rng(0)])
    flipped = augment_batch([image], [lungs], 64, config, [np.random.default_rng(0)])
    torch.testing.assert_close(flipped.lungs[0, 0], plain.lungs[0, 1].flip(-1))
    torch.testing.assert_close(flipped.pixels, plain.pixels.flip(-1))


def test_a_sample_never_depends_on_its_neighbours() -> None:
    image, lungs = make_sample()
    other = (np.zeros((50, 80), np.uint8), np.zeros((2, 50, 80), bool))
    rngs = [np.random.default_rng(3), np.random.default_rng(4)]
    pair = augment_batch([image, other[0]], [lungs, other[1]], 64, AugmentConfig(), rngs)
    alone = augment_batch([image], [lungs], 64, AugmentConfig(), [np.random.default_rng(3)])
    torch.testing.assert_close(pair.pixels[0], alone.pixels[0])
    torch.testing.assert_close(pair.lungs[0], alone.lungs[0])


@pytest.mark.parametrize("seed", range(20))
def test_values_stay_in_range(seed: int) -> None:
    image, lungs = make_sample()
    everything = AugmentConfig(
        unmoved=0, mirror=0.5, invert=0.5, equalize=0.5, shading=1, blur=1, border=1, marks=1,
        devices=1, noise_deviation=0.3,
    )  # fmt: skip
    batch = augment_batch([image], [lungs], 64, everything, [np.random.default_rng(seed)])
    assert bool(batch.pixels.isfinite().all())
    assert float(batch.pixels.min()) >= 0 and float(batch.pixels.max()) <= 255
    assert float(batch.lungs.min()) >= 0 and float(batch.lungs.max()) <= 1
    assert not batch.pixels[batch.valid == 0].any()


@pytest.mark.parametrize(
    "values", [{"scale_range": (1.2, 0.8)}, {"contrast_range": (0.0, 1.0)}, {"mirror": 1.5}]
)
def test_settings_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        AugmentConfig(**values)  # type: ignore[arg-type]
