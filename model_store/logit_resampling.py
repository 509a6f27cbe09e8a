"""Resample mask logits to every pixel of the X-ray, as tensors on any device.

Training, evaluation and GPUs use this module. They need the logits themselves, or compute two
matrix products cheaply. On a CPU `mask_resampling` gives the same mask without storing logits.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from model_store.geometry import InputGeometry
from model_store.mask_resampling import resampling_weights


def logits_to_image(logits: Tensor, geometry: InputGeometry) -> Tensor:
    """Resample mask logits to the image's own pixels, in one step and without the padding.

    Args:
        logits: Low-resolution logits over the whole padded input, (..., M, M).
        geometry: How the image lies in the input.

    Returns:
        Logits at every pixel of the image, (..., H, W).
    """
    source, size = logits.shape[-1], geometry.input_size
    rows = resampling_matrix(source, geometry.resized_height / size, geometry.height)
    columns = resampling_matrix(source, geometry.resized_width / size, geometry.width)
    return rows.to(logits) @ logits @ columns.to(logits).T


@functools.lru_cache(maxsize=64)
def resampling_matrix(source: int, share: float, target: int) -> Tensor:
    """Return `resampling_weights` as a tensor, cached for the next image of the same size."""
    return torch.from_numpy(resampling_weights(source, share, target))
