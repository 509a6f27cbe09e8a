"""Floats to int8 steps, where no neighbouring kernel can include that."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model_store.engine.kernels.rounding import to_steps

_BLOCK = 1024


@triton.jit
def _quantize_kernel(values, step, output, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    loaded = tl.load(values + place, mask=inside, other=0.0)
    tl.store(output + place, to_steps(loaded, tl.load(step)), mask=inside)


def quantize(values: Tensor, step: Tensor) -> Tensor:
    """Return int8 steps of float32 ``values`` (any shape, contiguous); ``step`` is a scalar."""
    values = values.contiguous()
    output = torch.empty(values.shape, dtype=torch.int8, device=values.device)
    grid = (triton.cdiv(values.numel(), _BLOCK),)
    _quantize_kernel[grid](
        values, step, output, values.numel(), BLOCK=_BLOCK, enable_fp_fusion=False
    )
    return output
