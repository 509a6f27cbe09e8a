"""Fake quantization in training == the integer engine; accumulators with tolerance 0."""

import pytest
import torch
from torch import nn

from model_store.int8_layers import Backend
from model_store.integers import ZERO_POINT, quantize_activation, reference_accumulate
from tests.tiny_models import make_tiny_model
from training.adapters.adalora import AdaLoraLinear
from training.adapters.adapted_model import add_adapters, merge_adapters
from training.adapters.config import AdaLoraConfig
from training.errors import ConfigError
from training.quantization.fake_quantization import FakeQuantized, round_straight_through, sampling
from training.quantization.quantized_model import add_fake_quantization, to_deployed
from training.quantization.sensitivity.choice import PrecisionChoice

ADALORA = AdaLoraConfig(initial_rank=4, target_rank=2, warmup_steps=1, final_steps=1)


def make_source(kind: str, seed: int) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    if kind == "linear":
        return nn.Linear(96, 40), torch.randn(5, 7, 96)
    if kind == "adapter":
        adapter = AdaLoraLinear(nn.Linear(48, 96), ADALORA)
        with torch.no_grad():
            adapter.singular.normal_()
            adapter.mask[0, 1:] = 0
        return adapter, torch.randn(9, 48)
    return nn.Conv2d(4, 8, 3, padding=1), torch.randn(2, 4, 12, 12)


@pytest.mark.parametrize("kind", ["linear", "adapter", "conv"])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.003, 0.02, 0.3])  # clipping hard, barely, and coarse
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_engine_computes_what_training_computed(
    kind: str, seed: int, scale: float, backend: Backend
) -> None:
    source, values = make_source(kind, seed)
    fake = FakeQuantized(source)  # type: ignore[arg-type]
    fake.log_scale.data.fill_(torch.tensor(scale).log())
    integers = fake.to_integers()
    integers.matrix.use_backend(backend)
    with torch.no_grad():
        assert torch.equal(fake(values), integers(values))


@pytest.mark.parametrize("seed", range(5))
def test_accumulators_are_equal_to_the_bit_at_the_extremes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(2080, 16, bias=False)
    signs = torch.randint(0, 2, (16, 2080), generator=generator) * 2.0 - 1.0
    with torch.no_grad():
        layer.weight.copy_(signs * 63)  # every weight at its limit, scale 1
    fake = FakeQuantized(layer)
    values = torch.randint(0, 2, (8, 2080), generator=generator) * 255.0 - 128.0
    quantized = quantize_activation(values, torch.ones(()))
    assert set(quantized.unique().tolist()) == {0, 255} and ZERO_POINT == 128
    with torch.no_grad():
        accumulators = reference_accumulate(quantized, signs.mul(63).to(torch.int8))
        assert torch.equal(fake(values).long(), accumulators)


def test_gradients_stop_where_values_were_clipped() -> None:
    source = nn.Linear(3, 1, bias=False)
    fake = FakeQuantized(source)
    with torch.no_grad():
        source.weight.fill_(1.0)
        fake.log_scale.fill_(torch.tensor(0.01).log())
    values = torch.tensor([[0.5, 5.0, -5.0]], requires_grad=True)  # 1.27 is the largest
    fake(values).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[1.0, 0.0, 0.0]]))


def test_the_scale_learns_as_in_lsq() -> None:
    """Inside, d/ds = round(x/s) - x/s; clipped above it is 127 (Esser et al., equation 3)."""
    source = nn.Linear(1, 1, bias=False)
    fake = FakeQuantized(source)
    source.weight.data.fill_(1.0)
    for value, wanted in ((0.0262, 3 - 2.62), (9.0, 127.0), (-9.0, -128.0)):
        fake.log_scale.data.fill_(torch.tensor(0.01).log())
        fake.log_scale.grad = None
        fake(torch.tensor([[value]])).sum().backward()
        assert fake.log_scale.grad is not None
        # The scale itself is exp(log_scale), so d/dlog s = s * d/ds.
        assert float(fake.log_scale.grad) == pytest.approx(0.01 * wanted, rel=1e-3)


def test_rounding_passes_the_gradient() -> None:
    values = torch.tensor([0.5, 1.5, 2.4], requires_grad=True)
    rounded = round_straight_through(values)
    assert rounded.tolist() == [0.0, 2.0, 2.0]
    rounded.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1.0, 1.0, 1.0]


def test_calibration_beats_the_plain_maximum_when_there_are_outliers() -> None:
    torch.manual_seed(0)
    fake = FakeQuantized(nn.Linear(64, 8))
    values = torch.randn(256, 64)
    values[0, 0] = 60.0  # one outlier: clipping it costs less than a step three times as wide
    with torch.no_grad(), sampling([fake]):
        fake(values)
    scale = float(fake.activation_scale.detach())
    assert 0.03 < scale < 60.0 / 127

    def error(step: float) -> float:
        steps = torch.round(values / step).clamp(-128, 127)
        return float((steps * step - values).square().mean())

    assert error(scale) <= error(60.0 / 127)


def test_calibration_without_inputs_is_refused() -> None:
    fake = FakeQuantized(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no inputs"), sampling([fake]):
        pass


def test_a_whole_model_deploys_to_the_same_masks() -> None:
    model = make_tiny_model()
    adapters = add_adapters(model, ADALORA)
    with torch.no_grad():
        for adapter in adapters.values():
            adapter.singular.normal_()
            adapter.frozen_mask = True
    layers = add_fake_quantization(model, PrecisionChoice(("image_encoder.neck.0",)))
    arguments = (
        model.normalize(torch.rand(2, 1, 64, 64) * 255),
        torch.tensor([[4.0, 4.0, 60.0, 60.0], [0.0, 0.0, 30.0, 64.0]]),
        torch.arange(2),
    )
    with torch.no_grad():
        with sampling(layers.values()):
            model(*arguments)
        trained = model(*arguments)
        precisions = to_deployed(model)
        deployed = model(*arguments)
    assert precisions["image_encoder.neck.0"] == "float"
    assert list(precisions.values()).count("float") == 1
    assert torch.equal(trained[0] > 0, deployed[0] > 0)
    for before, after in zip(trained, deployed, strict=True):  # float sums in another order
        torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)


def test_merging_adapters_keeps_the_function() -> None:
    model = make_tiny_model()
    for adapter in add_adapters(model, ADALORA).values():
        adapter.singular.data.normal_()
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        wanted = model.encode_image(images)
        merge_adapters(model)
        torch.testing.assert_close(model.encode_image(images), wanted)
    assert not any(isinstance(m, AdaLoraLinear) for m in model.modules())


def test_an_unknown_float_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="no_such_layer"):
        add_fake_quantization(make_tiny_model(), PrecisionChoice(("no_such_layer",)))
