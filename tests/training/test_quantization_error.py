import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from model_store.artifact import load_model
from model_store.int8_layers import Int8Matrix
from model_store.quantizable import quantizable_layers
from model_store.sam import PromptableSam
from tests.tiny_models import make_tiny_config, make_tiny_model
from training.data.dataset import read_rows
from training.evaluation.mask_difference import DISTANCE_EDGES, MaskDifference, in_chest_frame
from training.export import write_deployed
from training.phantom.dataset import write_phantom_dataset
from training.quantization.activation_error import activation_noise
from training.quantization.weight_error import (
    LayerWeights,
    compare_weights,
    correlation,
    error_by_magnitude,
    error_in_steps,
    moments,
    snr_db,
)
from training.report.quantization_plots import draw_error_histograms, draw_weight_scatter

Pair = tuple[PromptableSam, PromptableSam]


@pytest.fixture(scope="module")
def pair(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The tiny INT8 model and the float model with the very weights that were rounded."""
    out = tmp_path_factory.mktemp("twin")
    twin = write_deployed(make_tiny_model(), make_tiny_config(), out, name="twin", version="1")
    return load_model(tiny_artifact)[0], load_model(twin.folder)[0]


def test_stored_weights_are_the_rounded_ones_when_nothing_was_trained(pair: Pair) -> None:
    layers = compare_weights(*pair)
    assert [x.name for x in layers] == list(quantizable_layers(pair[1]))
    errors = error_in_steps(layers, rounding_alone=True)
    assert abs(errors).max() <= 0.5 + 1e-4
    assert abs(error_in_steps(layers)).max() < 0.6  # the twin is stored in float16
    assert correlation(layers) > 0.999
    for layer in layers:
        assert layer.stored_snr_db == pytest.approx(layer.rounded_snr_db, abs=1.0)
        assert 25 < layer.rounded_snr_db < 50


def test_what_was_trained_on_shows_in_stored_and_not_in_rounding_alone(pair: Pair) -> None:
    stored, twin = pair
    moved = copy.deepcopy(stored)
    matrix = next(m for m in moved.modules() if isinstance(m, Int8Matrix))
    matrix.weight.copy_((matrix.weight.to(torch.int16) + 5).clamp(-63, 63).to(torch.int8))
    before, after = compare_weights(stored, twin)[0], compare_weights(moved, twin)[0]
    assert after.stored_snr_db < before.stored_snr_db - 10
    assert after.rounded_snr_db == before.rounded_snr_db


def test_rounding_is_uniform_and_as_large_at_any_magnitude(pair: Pair) -> None:
    errors = error_in_steps(compare_weights(*pair), rounding_alone=True)
    found = moments(errors)
    assert found.sd == pytest.approx(12**-0.5, rel=0.03)
    assert (found.mean, found.skew) == pytest.approx((0, 0), abs=0.03)
    assert found.kurtosis == pytest.approx(-1.2, abs=0.05)
    centres, rms = error_by_magnitude(compare_weights(*pair), 4, rounding_alone=True)
    assert centres.tolist() == [7.875, 23.625, 39.375, 55.125]
    assert rms[:3] == pytest.approx(12**-0.5, rel=0.1)


def test_moments_of_a_gaussian_and_of_nothing() -> None:
    found = moments(np.random.default_rng(0).normal(0.2, 0.5, 100_000).astype(np.float32))
    assert (found.mean, found.sd) == pytest.approx((0.2, 0.5), abs=0.01)
    assert (found.skew, found.kurtosis) == pytest.approx((0, 0), abs=0.05)
    assert moments(np.zeros(3, np.float32)).sd == 0.0


def test_snr_of_known_noise() -> None:
    signal = np.full(100, 10.0, np.float32)
    assert snr_db(signal, signal + 1) == pytest.approx(20.0)
    assert snr_db(signal, signal) == float("inf")


def test_noise_of_every_layer(pair: Pair, tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, {"val": 2}, longest_side=96)
    stored, twin = pair
    rows = read_rows(tmp_path, "val")
    found = activation_noise(stored, twin, rows, 64)
    assert list(found) == [x.name for x in compare_weights(stored, twin)]
    assert all(not noise.outputs for noise in found.values())
    first = found["image_encoder.patch_embed.proj"]
    assert first.own_snr_db == pytest.approx(first.running_snr_db)  # nothing comes before it
    for noise in found.values():
        assert 5 < noise.own_snr_db < 60
    last = found["mask_decoder.output_hypernetworks_mlps.0.layers.2"]
    assert last.running_snr_db < last.own_snr_db
    assert not any(m._forward_hooks for model in pair for m in model.modules())


def test_the_chest_frame_puts_every_chest_in_one_place() -> None:
    for side, x, y in ((100, 10, 20), (300, 150, 5), (60, 0, 0)):
        mask = np.zeros((side * 2, side * 2), bool)
        mask[y : y + side, x : x + side] = True
        frame = in_chest_frame(mask, (x, y, x + side, y + side))
        assert frame[8:88, 8:88].min() > 0.4 and frame[9:87, 9:87].min() == 1.0
        assert frame[:7].max() == frame[89:].max() == frame[:, :7].max() == 0.0


def test_differences_are_counted_where_they_are() -> None:
    true = np.zeros((512, 512), bool)
    true[100:400, 100:400] = True
    model = true.copy()
    model[100:400, 400:404] = True  # four pixels too far to the right
    found = MaskDifference()
    found.add(model, true, true, (100.0, 100.0, 400.0, 400.0))
    assert found.truth_differs.sum() == 0
    assert found.models_differ.sum() == 300 * 4
    outside = (DISTANCE_EDGES[:-1] >= 0) & (DISTANCE_EDGES[:-1] <= 4)
    assert found.models_differ[outside].sum() == 300 * 4
    row, column = np.unravel_index(found.differing.argmax(), found.differing.shape)
    assert column == 88 and 8 <= row < 88
    assert (found.models_differ <= found.pixels).all()


def by_hand(floating: list[float], stored: list[float], step: float = 1.0) -> LayerWeights:
    values = np.array([floating, stored, stored], dtype=np.float32)
    steps = np.full(len(floating), step, dtype=np.float32)
    return LayerWeights("layer", values[0], values[1], values[2], steps, steps)


def test_correlation_is_pearsons_over_all_layers() -> None:
    same = by_hand([1.0, -2.0, 3.0], [1.0, -2.0, 3.0])
    assert correlation([same]) == pytest.approx(1.0)
    other = by_hand([4.0, 0.0, -1.0], [3.0, 1.0, -2.0])
    wanted = np.corrcoef([1, -2, 3, 4, 0, -1], [1, -2, 3, 3, 1, -2])[0, 1]
    assert correlation([same, other]) == pytest.approx(wanted)


def test_error_by_magnitude_by_hand() -> None:
    """Steps of 0.5: sizes of 4, 20 and 60 steps with errors of 1, -2 and 0 steps."""
    layer = by_hand([2.0, -10.0, 30.0], [2.5, -11.0, 30.0], step=0.5)
    _, errors = error_by_magnitude([layer], 4)
    assert errors[[0, 1, 3]].tolist() == [1.0, 2.0, 0.0] and np.isnan(errors[2])
    assert error_in_steps([layer]).tolist() == [1.0, -2.0, 0.0]


def test_the_drawn_gaussian_is_the_fitted_one(pair: Pair) -> None:
    layers = compare_weights(*pair)
    figure = draw_error_histograms(layers)
    for axis, alone in zip(figure.axes, (False, True), strict=True):
        found = moments(error_in_steps(layers, rounding_alone=alone))
        (curve,) = axis.lines
        x, y = (np.asarray(values) for values in curve.get_data())
        peak = 1 / (found.sd * np.sqrt(2 * np.pi))
        assert y.max() == pytest.approx(peak, rel=0.01)
        assert x[int(np.argmax(y))] == pytest.approx(found.mean, abs=0.05)
        heights = [
            bar.get_height() * bar.get_width() for bar in axis.patches if isinstance(bar, Rectangle)
        ]
        assert sum(heights) == pytest.approx(1.0)  # every error is in a bar
    scatter = draw_weight_scatter(layers)
    assert f"r = {correlation(layers):.6f}" in scatter.axes[0].get_title()
