"""The rows of an image's tokens that attention windows read, so that windows need no copies."""

from __future__ import annotations

import torch
from torch import Tensor


def window_source_rows(images: int, grid_size: int, window_size: int) -> Tensor:
    """Return the token row of each place of each window, in SAM's window order.

    SAM pads the grid at the right and the bottom to whole windows.

    Args:
        images: Number of images, whose tokens lie one after the other.
        grid_size: Side of the token grid.
        window_size: Side of a window, in tokens.

    Returns:
        int32 (images * windows * window_size ** 2,); ``images * grid_size ** 2`` marks a place
        outside the image.
    """
    windows = -(-grid_size // window_size)
    start = torch.arange(windows) * window_size
    offset = torch.arange(window_size)
    line = start[:, None] + offset[None, :]  # (windows, window_size)
    y = line[:, None, :, None]  # (windows, 1, window_size, 1)
    x = line[None, :, None, :]  # (1, windows, 1, window_size)
    inside = (y < grid_size) & (x < grid_size)  # (windows, windows, window_size, window_size)
    first = torch.arange(images).view(-1, 1, 1, 1, 1) * grid_size**2
    rows = torch.where(inside, first + y * grid_size + x, images * grid_size**2)
    return rows.flatten().to(torch.int32)
