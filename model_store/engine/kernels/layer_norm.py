"""LayerNorm of one row per program, quantized for the next integer layer in the same pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from model_store.engine.kernels.rounding import to_steps


@triton.jit
def _layer_norm_kernel(
    values, weight, bias, step, output, columns, epsilon,
    QUANTIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    row = tl.load(values + first + column, mask=inside, other=0.0)
    mean = tl.sum(row, axis=0) / columns
    centred = tl.where(inside, row - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / columns
    scaled = centred * tl.math.div_rn(1.0, tl.sqrt_rn(variance + epsilon))
    gain = tl.load(weight + column, mask=inside, other=0.0)
    offset = tl.load(bias + column, mask=inside, other=0.0)
    result = scaled * gain + offset
    if QUANTIZE:
        tl.store(output + first + column, to_steps(result, tl.load(step)), mask=inside)
    else:
        tl.store(output + first + column, result, mask=inside)


def layer_norm(values: Tensor, norm: nn.Module, step: Tensor | None) -> Tensor:
    """Normalise rows and, when the next layer is of integers, quantize them.

    Args:
        values: float32 (M, C), contiguous.
        norm: ``nn.LayerNorm`` or SAM's ``LayerNorm2d``: ``weight`` (C,), ``bias`` (C,), ``eps``.
        step: Activation scale of the next layer, float32 scalar; None keeps floats.

    Returns:
        int8 steps (M, C), or float32 (M, C).
    """
    rows, columns = values.shape
    kind = torch.float32 if step is None else torch.int8
    output = torch.empty((rows, columns), dtype=kind, device=values.device)
    block = triton.next_power_of_2(columns)
    _layer_norm_kernel[(rows,)](
        values, norm.weight, norm.bias, values if step is None else step, output, columns,
        float(norm.eps),  # type: ignore[arg-type]
        QUANTIZE=step is not None, BLOCK=block, num_warps=4 if block >= 512 else 1,
        enable_fp_fusion=False,
    )  # fmt: skip
    return output
