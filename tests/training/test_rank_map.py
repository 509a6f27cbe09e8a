"""The picture of the ranks shows the numbers of the ranks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.adapters.rank_map import draw_rank_map, rank_grid, save_rank_map

RANKS = {
    "image_encoder.blocks.10.attn.qkv": {"q": 1, "v": 6},
    "image_encoder.blocks.2.attn.qkv": {"q": 0, "v": 3},
    "image_encoder.blocks.2.mlp.lin2": {"lin2": 4},
    "image_encoder.blocks.10.mlp.lin2": {"lin2": 2},
}


def test_ranks_are_arranged_by_block_number_and_slice() -> None:
    grid, columns = rank_grid(RANKS)
    assert columns == ["q", "v", "lin2"]
    assert grid.tolist() == [[0, 3, 4], [1, 6, 2]]


def test_before_and_after_are_drawn_on_one_scale() -> None:
    before, after = draw_rank_map(RANKS, initial_rank=6).axes[:2]
    assert (before.get_title(), after.get_title()) == ("before: 36 triplets", "after: 16 triplets")
    for axis, numbers in ((before, ["6"] * 6), (after, ["0", "3", "4", "1", "6", "2"])):
        assert axis.images[0].get_clim() == (0, 6)
        assert [text.get_text() for text in axis.texts] == numbers
    assert [label.get_text() for label in after.get_xticklabels()] == ["q", "v", "lin2"]


def test_the_file_is_a_picture(tmp_path: Path) -> None:
    path = save_rank_map(tmp_path, RANKS, initial_rank=6)
    assert path.name == "rank_map.png"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[1] > 500 and pixels.std() > 20


def test_a_layer_outside_the_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'neck\.0' is not a layer of an encoder block"):
        rank_grid({"neck.0": {"q": 1}})
