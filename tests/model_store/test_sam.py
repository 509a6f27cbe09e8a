"""The batched composition against segment_anything's own."""

import sys

import pytest
import torch

from model_store.box_raster import rasterize_boxes
from model_store.sam import PromptableSam, predict_all_masks
from tests.tiny_models import make_tiny_model


@pytest.mark.parametrize("box_as_mask", [False, True])
def test_batched_decoder_equals_the_original_one_image_at_a_time(box_as_mask: bool) -> None:
    model = make_tiny_model(box_as_mask=box_as_mask)
    embeddings = torch.randn(3, 32, 4, 4)
    boxes = torch.rand(5, 4) * 60
    image_index = torch.tensor([0, 0, 1, 2, 2])
    with torch.no_grad():
        masks, iou = model.decode_masks(embeddings, boxes, image_index)
        for prompt, image in enumerate(image_index):
            box = boxes[prompt : prompt + 1]
            drawn = rasterize_boxes(box, 64, 16) if box_as_mask else None
            sparse, dense = model.prompt_encoder(None, box - 0.5, drawn)
            wanted = model.mask_decoder.predict_masks(
                image_embeddings=embeddings[image : image + 1],
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
            torch.testing.assert_close(masks[prompt], wanted[0][0])
            torch.testing.assert_close(iou[prompt], wanted[1][0])


def test_parameter_names_are_those_of_segment_anything(tiny_model: PromptableSam) -> None:
    sam_class = sys.modules["_segment_anything_modeling"].Sam
    original = sam_class(
        tiny_model.image_encoder, tiny_model.prompt_encoder, tiny_model.mask_decoder
    )
    assert set(tiny_model.state_dict()) == set(original.state_dict())


def test_gradient_reaches_every_part(tiny_model: PromptableSam) -> None:
    masks, iou = tiny_model(
        torch.randn(1, 1, 64, 64), torch.tensor([[1.0, 2.0, 40.0, 50.0]]), torch.tensor([0])
    )
    (masks.sum() + iou.sum()).backward()
    assert tiny_model.image_encoder.patch_embed.proj.weight.grad.abs().sum() > 0
    assert tiny_model.prompt_encoder.point_embeddings[2].weight.grad.abs().sum() > 0
    assert tiny_model.mask_decoder.iou_token.weight.grad.abs().sum() > 0


def test_padding_is_zero_after_normalisation(tiny_model: PromptableSam) -> None:
    pixels = torch.full((1, 1, 64, 64), 200, dtype=torch.uint8)
    valid = torch.ones(1, 1, 64, 64)
    valid[..., 40:] = 0
    normalized = tiny_model.normalize(pixels, valid)
    assert normalized[..., 40:].eq(0).all()
    assert normalized[..., :40].eq((200 - 127.5) / 63.75).all()


def test_predicting_without_prompts_of_an_image_is_refused_by_shape() -> None:
    model = make_tiny_model()
    with pytest.raises(RuntimeError):
        predict_all_masks(
            model.mask_decoder, torch.randn(2, 32, 4, 4), torch.randn(1, 32, 4, 4),
            torch.randn(3, 2, 32), torch.randn(2, 32, 4, 4),
        )  # fmt: skip
