from collections import Counter

import numpy as np
import pytest
import torch

from model_store.conventions import CONVENTIONS
from tests.tiny_models import make_tiny_model
from training.acceleration.distributed import Processes
from training.data.augmentation import AugmentConfig
from training.data.batches import BatchSource
from training.data.dataset import LabelledXray
from training.data.prefetching import prefetched
from training.data.prompts import PromptMix
from training.losses import LossWeights, MaskLoss
from training.run.accumulation import parts_of


def make_source(seed: int = 1) -> BatchSource:
    lungs = np.zeros((2, 50, 60), bool)
    lungs[0, 10:40, 5:25] = lungs[1, 10:40, 35:55] = True
    xrays = [
        LabelledXray(f"x{i}", "rare" if i == 0 else "often", CONVENTIONS[i % 2],
                     np.full((50, 60), 10 * i, np.uint8), lungs)
        for i in range(6)
    ]  # fmt: skip
    return BatchSource(
        xrays, {"rare": 5}, AugmentConfig(), PromptMix(), input_size=32, loss_size=16,
        batch_size=2, prompts_per_image=3, seed=seed,
    )  # fmt: skip


def test_a_step_is_the_same_whenever_it_is_asked() -> None:
    first, second = make_source().batch(3), make_source().batch(3)
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(second, name)), name
    assert not torch.equal(first.pixels, make_source(2).batch(3).pixels)


def test_every_row_comes_as_often_as_configured() -> None:
    source = make_source()
    assert source.steps_per_epoch == 5
    for epoch in range(3):
        steps = range(5 * epoch, 5 * epoch + 5)
        seen = Counter(row for step in steps for row in source.rows_of_step(step))
        assert seen == {0: 5, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}


def test_shapes_and_tokens() -> None:
    source = make_source()
    batch = source.batch(0)
    assert batch.pixels.shape == (2, 1, 32, 32) and batch.target.shape == (6, 16, 16)
    assert batch.boxes.shape == (6, 4) and batch.image_index.tolist() == [0, 0, 0, 1, 1, 1]
    rows = source.rows_of_step(0)
    assert batch.tokens.tolist() == [row % 2 for row in rows for _ in range(3)]
    assert float(batch.target.min()) >= 0 and float(batch.target.max()) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetching_keeps_order_and_passes_errors_on(workers: int) -> None:
    source = make_source()
    wanted = [source.batch(step).boxes for step in range(4)]
    got = [batch.boxes for batch in prefetched(source.batch, range(4), workers)]
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
    assert list(prefetched(source.batch, [], workers)) == []

    def broken(step: int) -> object:
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(prefetched(broken, range(2), workers))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [2, 3])
def test_parts_have_the_gradient_of_the_whole(count: int) -> None:
    """Two parts of two X-rays, and three parts of two (so each X-ray alone)."""
    batch = make_source().batch(0)
    loss = MaskLoss(LossWeights(), 16)

    def gradients(parts: int) -> dict[str, torch.Tensor]:
        model = make_tiny_model(input_size=32)
        for part, weight in parts_of(batch, parts):
            normalized = model.normalize(part.pixels, part.valid)
            logits, iou = model(normalized, part.boxes, part.image_index)
            (weight * loss(logits, iou, part.target, part.tokens)[0]).backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    whole, parted = gradients(1), gradients(count)
    assert whole.keys() == parted.keys() and len(whole) > 20
    for name, gradient in whole.items():
        torch.testing.assert_close(parted[name], gradient, atol=1e-5, rtol=1e-4)


def test_no_row_is_seen_twice_by_two_processes() -> None:
    source = make_source()
    for step in range(10):
        shares = [source.divided(Processes(rank, 2)).share_of_step(step) for rank in range(2)]
        assert sorted(shares[0] + shares[1]) == list(enumerate(source.rows_of_step(step)))
        whole = source.batch(step)
        for rank in range(2):
            part = source.divided(Processes(rank, 2)).batch(step)
            assert torch.equal(part.pixels, whole.pixels[rank : rank + 1])
    with pytest.raises(ValueError, match="2 X-rays cannot be divided evenly among 3"):
        source.divided(Processes(0, 3))
