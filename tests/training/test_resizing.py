"""A trained model at another input size or with other windows."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from model_store.architecture import build_sam
from model_store.model_index import default_float_twin_folder, default_model_folder
from tests.tiny_models import make_tiny_config
from training.data.prompts import tight_box
from training.errors import CheckpointError
from training.evaluation.metrics import dice
from training.export import write_deployed
from training.phantom import draw_phantom
from training.stages.base import load_base
from training.stages.resizing import resized_model

TINY = make_tiny_config()
SMALL = make_tiny_config(window_size=0, global_attn_indexes=())


def test_equal_sizes_leave_the_model_alone() -> None:
    model = build_sam(SMALL)
    assert resized_model(SMALL, model, SMALL) is model


def test_windows_keep_the_near_part_of_the_table_at_its_scale() -> None:
    torch.manual_seed(0)
    model = build_sam(SMALL)
    for name, parameter in model.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter)
    wanted = dataclasses.replace(SMALL, window_size=2, global_attn_indexes=(1,))
    resized = resized_model(SMALL, model, wanted)
    middle = SMALL.grid_size - 1
    before = model.image_encoder.blocks[0].attn.rel_pos_h
    assert torch.equal(
        resized.image_encoder.blocks[0].attn.rel_pos_h, before[middle - 1 : middle + 2]
    )
    whole = model.image_encoder.blocks[1].attn.rel_pos_h
    assert torch.equal(resized.image_encoder.blocks[1].attn.rel_pos_h, whole)


def test_a_constant_table_stays_constant_at_another_input_size() -> None:
    model = build_sam(SMALL)
    with torch.no_grad():
        model.image_encoder.pos_embed.fill_(0.5)
    wanted = dataclasses.replace(SMALL, input_size=2 * SMALL.input_size)
    resized = resized_model(SMALL, model, wanted)
    expected = (1, wanted.grid_size, wanted.grid_size, wanted.embed_dim)
    assert resized.image_encoder.pos_embed.shape == expected
    torch.testing.assert_close(resized.image_encoder.pos_embed, torch.full(expected, 0.5))


def test_a_box_that_becomes_a_mask_prompt_starts_near_what_was_learned() -> None:
    torch.manual_seed(0)
    model = build_sam(SMALL)
    resized = resized_model(SMALL, model, dataclasses.replace(SMALL, box_as_mask=True))
    box = torch.tensor([[8.0, 4.0, 50.0, 60.0]])
    embedding, first = torch.randn(1, SMALL.prompt_dim, 4, 4), torch.tensor([0])
    with torch.no_grad():
        before, after = (m.decode_masks(embedding, box, first)[0] for m in (model, resized))
    assert not torch.equal(before, after)
    assert (before - after).norm() < 0.2 * before.norm()


def test_other_sizes_are_refused() -> None:
    model = build_sam(SMALL)
    with pytest.raises(
        ValueError, match="only the input size, the attention windows and box_as_mask"
    ):
        resized_model(SMALL, model, dataclasses.replace(SMALL, depth=SMALL.depth + 1))


def test_a_larger_window_repeats_the_farthest_distance_that_is_known() -> None:
    small = dataclasses.replace(SMALL, window_size=2)
    model = build_sam(small)
    for block in model.image_encoder.blocks:
        nn.init.normal_(block.attn.rel_pos_h)
    larger = resized_model(small, model, dataclasses.replace(SMALL, window_size=4))
    for before, after in zip(model.image_encoder.blocks, larger.image_encoder.blocks, strict=True):
        old, new = before.attn.rel_pos_h, after.attn.rel_pos_h
        assert (len(old), len(new)) == (3, 7)
        assert torch.equal(new[2:5], old)
        assert torch.equal(new[:2], old[:1].expand(2, -1))
        assert torch.equal(new[5:], old[-1:].expand(2, -1))


def test_a_stored_float_model_is_a_base_and_integers_are_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_sam(TINY)
    expected = {name: value.half().float() for name, value in model.state_dict().items()}
    write_deployed(model, TINY, tmp_path, name="tiny", version="1", training={"stages": [{"a": 1}]})
    base = load_base(tmp_path / "tiny" / "1")
    assert base.stage == "stored"
    assert base.lineage == ({"a": 1}, {"stage": "stored", "model": "tiny/1"})
    for name, value in base.model.state_dict().items():
        assert torch.equal(value, expected[name])
    assert all(p.requires_grad for p in base.model.parameters() if p.is_floating_point())
    twin = default_float_twin_folder()
    with pytest.raises(CheckpointError, match=f"{twin.parent.name}/{twin.name} can"):
        load_base(default_model_folder())


@torch.no_grad()
def test_the_stored_twin_of_the_default_model_stays_useful_at_a_larger_input() -> None:
    """A next version may be trained on from the stored one like this."""
    base = load_base(default_float_twin_folder())
    wanted = dataclasses.replace(base.architecture, input_size=448, window_size=14)
    resized = resized_model(base.architecture, base.model, wanted)
    phantom = draw_phantom(3, (448, 448))
    truth = phantom.mask("whole_lung")
    box = torch.tensor([tight_box(truth)])
    pixels = torch.tensor(phantom.image, dtype=torch.float32)[None, None]
    logits, _ = resized(resized.normalize(pixels), box, torch.tensor([0]))
    found = torch.nn.functional.interpolate(logits[:, 1:2], size=(448, 448), mode="bilinear")
    assert dice(found[0, 0].numpy() > 0, truth) > 0.8
