"""Boxes drawn as mask prompts: areas are exact, and a decoder sees them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_store.box_raster import rasterize_boxes
from tests.tiny_models import make_tiny_model

EDGE = st.floats(0, 64, allow_nan=False, width=32)


def test_cells_inside_are_1_outside_minus_1_and_a_half_covered_one_0() -> None:
    drawn = rasterize_boxes(torch.tensor([[8.0, 4.0, 18.0, 12.0]]), 64, 16)  # cells of 4 pixels
    assert drawn.shape == (1, 1, 16, 16)
    wanted = np.full((16, 16), -1.0)
    wanted[1:3, 2:4] = 1.0
    wanted[1:3, 4] = 0.0  # 16..18 is half of the cell 16..20
    assert drawn[0, 0].numpy() == pytest.approx(wanted)


def test_the_whole_input_is_inside_of_its_own_box() -> None:
    assert rasterize_boxes(torch.tensor([[0.0, 0.0, 64.0, 64.0]]), 64, 16).eq(1).all()


@given(EDGE, EDGE, EDGE, EDGE)
def test_the_area_is_that_of_the_box(x0: float, x1: float, y0: float, y1: float) -> None:
    box = torch.tensor([[min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]])
    drawn = rasterize_boxes(box, 64, 16)
    assert drawn.min() >= -1 and drawn.max() <= 1
    area_px = float(((drawn + 1) / 2).sum()) * 16
    assert area_px == pytest.approx(abs(x1 - x0) * abs(y1 - y0), abs=1e-2)


def test_an_edge_that_moves_by_less_than_a_cell_changes_the_answer() -> None:
    model = make_tiny_model(box_as_mask=True)
    embedding, first = torch.randn(1, 32, 4, 4), torch.tensor([0])
    boxes = torch.tensor([[8.0, 4.0, 50.0, 60.0], [8.0, 4.0, 50.0, 61.0]])
    with torch.no_grad():
        dense = [
            model.prompt_encoder(None, None, rasterize_boxes(box[None], 64, 16))[1] for box in boxes
        ]
        masks = [model.decode_masks(embedding, box[None], first)[0] for box in boxes]
    assert not torch.equal(*dense)
    assert not torch.equal(*masks)
