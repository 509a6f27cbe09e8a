from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model_store.structures import HEART, STRUCTURE_TOKENS, mask_token
from tests.tiny_models import make_tiny_config, make_tiny_model
from training.data.augmentation import AugmentConfig, augment
from training.data.batches import BatchSource
from training.data.dataset import LabelledXray
from training.data.further_masks import with_further_masks
from training.data.portable import portable_xray
from training.data.prompts import PromptMix
from training.errors import DataError
from training.losses import LossWeights, MaskLoss
from training.prepare.pseudo_masks import Segmenters, believed_heart, pseudo_masks
from training.run.further_loss import further_loss
from training.stages.resizing import resized_model

UNMOVED = AugmentConfig(
    unmoved=1, mirror=0, gamma_deviation=0, contrast_range=(1, 1), brightness=0, invert=0,
    equalize=0, shading=0, blur=0, noise_deviation=0, border=0, marks=0, devices=0,
)  # fmt: skip
MIRRORED = AugmentConfig(**{**vars(UNMOVED), "mirror": 1})
WHOLE_IMAGE = PromptMix(both=0, single=0, whole_image=1, anywhere=0)


def make_xray(name: str = "x", convention: str = "lung_field") -> LabelledXray:
    lungs = np.zeros((2, 64, 64), bool)
    lungs[0, 10:50, 5:25] = lungs[1, 10:50, 40:60] = True
    return LabelledXray(name, "s", convention, np.full((64, 64), 90, np.uint8), lungs)  # type: ignore[arg-type]


def write_mask(path: Path, *boxes: tuple[int, int, int, int], side: int = 64) -> None:
    mask = np.zeros((side, side), np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).convert("1").save(path)


def make_known(folder: Path) -> list[LabelledXray]:
    """Two X-rays, of which the first has both further masks and the second has none."""
    write_mask(folder / "whole_lung" / "x.png", (5, 10, 30, 50), (36, 10, 60, 50))
    write_mask(folder / "heart" / "x.png", (24, 30, 44, 52))
    return with_further_masks([make_xray(), make_xray("y")], [str(folder)])


def make_source(xrays: list[LabelledXray], augmentation: AugmentConfig = UNMOVED) -> BatchSource:
    return BatchSource(
        xrays, {}, augmentation, WHOLE_IMAGE, input_size=64, loss_size=64, batch_size=2,
        prompts_per_image=2, seed=3,
    )  # fmt: skip


def test_the_other_convention_and_the_heart_are_read_and_split(tmp_path: Path) -> None:
    known, unknown = make_known(tmp_path)
    assert unknown.further is None
    assert known.further is not None and known.further.lungs_known and known.further.heart_known
    left, right, heart = known.further.planes
    assert left[20, 28] and not left[20, 40] and right[20, 40] and heart[40, 30]


def test_lungs_that_touch_are_split_where_the_own_mask_is(tmp_path: Path) -> None:
    write_mask(tmp_path / "whole_lung" / "x.png", (5, 10, 60, 50))
    (xray,) = with_further_masks([make_xray()], [str(tmp_path)])
    assert xray.further is not None
    left, right, _ = xray.further.planes
    assert left.sum() > 0.4 * right.sum() and not (left & right).any()


def test_the_first_folder_decides(tmp_path: Path) -> None:
    write_mask(tmp_path / "people" / "heart" / "x.png", (0, 0, 10, 10))
    write_mask(tmp_path / "models" / "heart" / "x.png", (0, 0, 64, 64))
    folders = [str(tmp_path / "people"), str(tmp_path / "models")]
    (xray,) = with_further_masks([make_xray()], folders)
    assert xray.further is not None and xray.further.planes[2].sum() == 100


@pytest.mark.parametrize("broken", ["empty", "shape", "text"])
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, broken: str) -> None:
    if broken == "shape":
        path = tmp_path / "heart" / "x.png"
        path.parent.mkdir()
        Image.new("1", (64, 20)).save(path)
    if broken == "text":
        (tmp_path / "heart").mkdir()
        (tmp_path / "heart" / "x.png").write_text("no picture")
    with pytest.raises(DataError, match=str(tmp_path)):
        with_further_masks([make_xray()], [str(tmp_path)])


def test_a_batch_says_what_is_known_and_meant(tmp_path: Path) -> None:
    source = make_source(make_known(tmp_path))
    batch = source.batch(0)
    known_first = source.rows_of_step(0)[0] == 0
    expected = [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert batch.further_known.tolist() == (expected if known_first else expected[::-1])
    place = 0 if known_first else 1
    assert batch.further.shape == (2, 3, 64, 64)
    assert batch.further_meant[batch.image_index == place].tolist() == [[1, 1, 1]] * 2
    assert not batch.further[1 - place].any()


def test_a_mirrored_xray_swaps_its_further_lungs_and_keeps_its_heart(tmp_path: Path) -> None:
    xray = make_known(tmp_path)[0]
    assert xray.further is not None
    rng = np.random.default_rng(0)
    seen = augment(xray.image, xray.lungs, 64, MIRRORED, rng, xray.further.planes).further
    left, right, heart = xray.further.planes
    for found, wanted in zip(seen, (right, left, heart), strict=True):
        assert np.array_equal(found > 127, wanted[:, ::-1])


def test_without_further_masks_nothing_is_learned_of_them() -> None:
    batch = make_source([make_xray(), make_xray("y")]).batch(0)
    logits, iou = torch.zeros(4, 3, 16, 16), torch.zeros(4, 3)
    assert further_loss(MaskLoss(LossWeights(), 64), logits, iou, batch) is None


def test_an_unknown_mask_moves_no_token_and_a_known_one_moves_its_own(tmp_path: Path) -> None:
    source = make_source(make_known(tmp_path))
    batch = source.batch(0)
    logits = torch.zeros(4, 3, 16, 16, requires_grad=True)
    found = further_loss(MaskLoss(LossWeights(iou=0), 64), logits, torch.zeros(4, 3), batch)
    assert found is not None
    found[0].backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(dim=(2, 3)) > 0  # (N, T)
    for prompt, image in enumerate(batch.image_index.tolist()):
        is_known = source.rows_of_step(0)[image] == 0
        # Its own convention, lung_field, is the loss's other half.
        assert moved[prompt].tolist() == [False, is_known, is_known]


def test_new_mask_tokens_leave_what_the_old_ones_learned() -> None:
    model = make_tiny_model()
    grown = resized_model(make_tiny_config(), model, make_tiny_config(num_mask_tokens=3))
    for name, value in model.state_dict().items():
        assert torch.equal(grown.state_dict()[name][: len(value)] if value.ndim else value, value)
    with pytest.raises(ValueError, match="mask tokens be added"):
        resized_model(make_tiny_config(num_mask_tokens=3), grown, make_tiny_config())


def test_tokens_of_structures() -> None:
    assert mask_token("lungs", "whole_lung") == 1 and mask_token("heart", "lung_field") == 2
    assert STRUCTURE_TOKENS[HEART] == 2
    with pytest.raises(ValueError, match="liver"):
        mask_token("liver", "lung_field")


def test_a_portable_xray_is_another_picture_and_hides_what_lies_outside_the_cassette() -> None:
    image = np.tile(np.arange(128, dtype=np.uint8), (128, 1))
    hidden = 0
    for seed in range(30):
        found, seen = portable_xray(image, np.random.default_rng(seed))
        again, _ = portable_xray(image, np.random.default_rng(seed))
        assert np.array_equal(found, again) and found.dtype == np.uint8
        outside = found[seen == 0]
        hidden += len(outside) > 0
        assert len(np.unique(outside)) <= 1
    assert 5 <= hidden <= 25


def test_pseudo_masks_keep_what_people_annotated_and_what_holds_of_lungs() -> None:
    model = make_tiny_model(num_mask_tokens=3)
    segmenters = Segmenters([model], [model], [model])
    image = np.random.default_rng(1).integers(0, 255, (80, 70)).astype(np.uint8)
    plain = pseudo_masks(image, segmenters)
    assert plain.whole_lung.shape == image.shape
    assert plain.lung_field is None or not (plain.lung_field & ~plain.whole_lung).any()
    lungs = np.zeros((2, 80, 70), bool)
    lungs[0, 20:60, 8:28] = lungs[1, 20:60, 42:62] = True
    for convention in ("lung_field", "whole_lung"):
        own = LabelledXray("x", "s", convention, image, lungs)
        kept = getattr(pseudo_masks(image, segmenters, own), convention)
        assert np.array_equal(kept, own.mask)


def test_a_ragged_heart_is_not_believed() -> None:
    whole = np.ones((100, 100), bool)
    heart = np.zeros((100, 100), bool)
    heart[40:80, 30:70] = True
    assert believed_heart(heart, whole) is not None
    heart[45:80, 40:60] = False  # a horseshoe
    assert believed_heart(heart, whole) is None
    assert believed_heart(np.zeros((100, 100), bool), whole) is None
