"""A box as a raster: how much of each cell of SAM's mask prompt lies inside it.

SAM's corner tokens tell the decoder roughly where a box is. Patches of the image embedding are 16
pixels wide, so masks hardly follow corners to the pixel. As a mask prompt the box has edges that
are exact to a fraction of a cell.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rasterize_boxes(boxes: Tensor, input_size: int, side: int) -> Tensor:
    """Rasterize boxes as mask prompts.

    Args:
        boxes: ``x0, y0, x1, y1`` in pixels of the model's input, (N, 4).
        input_size: Side of the model's input, in pixels.
        side: Side M of the mask prompt, in cells.

    Returns:
        float32 (N, 1, M, M), from -1 for a cell outside of the box to 1 for one inside.
    """
    cells = boxes.float() * (side / input_size)
    columns = _covered(cells[:, 0], cells[:, 2], side)  # (N, M)
    rows = _covered(cells[:, 1], cells[:, 3], side)  # (N, M)
    return (2 * rows[:, :, None] * columns[:, None, :] - 1).unsqueeze(1)


def _covered(low: Tensor, high: Tensor, side: int) -> Tensor:
    """Return the share of each of ``side`` unit cells that lies within low..high, (N, side)."""
    left = torch.arange(side, dtype=torch.float32, device=low.device)
    inside = torch.minimum(left + 1, high[:, None]) - torch.maximum(left, low[:, None])
    return inside.clamp(0.0, 1.0)
