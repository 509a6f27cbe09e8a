"""Meta's files load by key; a small stand-in of the same structure is enough to prove it."""

from pathlib import Path

import pytest
import torch

import model_store.meta_checkpoint as meta
from model_store.architecture import VARIANTS, SamConfig
from tests.tiny_models import make_tiny_model

SIZES = {
    "input_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 3,
    "global_attn_indexes": (1,), "in_channels": 3, "prompt_dim": 32, "decoder_heads": 2,
    "num_mask_tokens": 4, "pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (1.0, 1.0, 1.0),
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file like Meta's, of a variant small enough for a test."""
    monkeypatch.setitem(VARIANTS, "vit_small", SIZES)
    path = tmp_path / "sam_vit_small.pth"
    torch.save(make_tiny_model(1, **SIZES, decoder_mlp_dim=512).state_dict(), path)
    monkeypatch.setitem(SIZES, "decoder_mlp_dim", 512)
    monkeypatch.setitem(SIZES, "iou_head_hidden_dim", 16)
    return path


def test_the_file_loads_unchanged(checkpoint: Path) -> None:
    assert meta.is_meta_checkpoint(checkpoint)
    config, model = meta.load_meta_checkpoint(checkpoint)
    assert isinstance(config, SamConfig) and config.variant == "vit_small"
    for name, tensor in torch.load(checkpoint, weights_only=True).items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_position_tables_follow_another_input_size(checkpoint: Path) -> None:
    _, model = meta.load_meta_checkpoint(checkpoint, input_size=96)
    assert model.image_encoder.pos_embed.shape == (1, 6, 6, 32)
    assert model.image_encoder.blocks[1].attn.rel_pos_h.shape == (11, 16)
    masks, _ = model(torch.randn(1, 3, 96, 96), torch.rand(1, 4) * 96, torch.tensor([0]))
    assert masks.shape == (1, 4, 24, 24) and bool(masks.isfinite().all())


def test_a_constant_table_stays_constant() -> None:
    state = {"x.pos_embed": torch.full((1, 4, 4, 2), 3.0), "x.rel_pos_h": torch.full((7, 2), 5.0)}
    wanted = {"x.pos_embed": torch.empty(1, 9, 9, 2), "x.rel_pos_h": torch.empty(17, 2)}
    resized = meta.resize_position_tables(state, wanted)
    torch.testing.assert_close(resized["x.pos_embed"], torch.full((1, 9, 9, 2), 3.0))
    torch.testing.assert_close(resized["x.rel_pos_h"], torch.full((17, 2), 5.0))


def test_other_files_are_told_apart_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    assert not meta.is_meta_checkpoint(path)
    with pytest.raises(ValueError, match="not a SAM checkpoint"):
        meta.load_meta_checkpoint(path)
    path.write_bytes(b"no checkpoint at all")
    assert not meta.is_meta_checkpoint(path)
    with pytest.raises(ValueError, match="cannot be read"):
        meta.load_meta_checkpoint(path)
