"""Rounding inside kernels: the same integers as `model_store.integers.quantize_activation`."""

import triton
import triton.language as tl

_ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it leaves no bits below 1
_LOW = tl.constexpr(-128.0)
_HIGH = tl.constexpr(127.0)


@triton.jit
def to_steps(values, step):
    """Turn float32 values into int8 steps of size ``step``; half rounds to even.

    ``/`` is approximate on GPUs, ``div_rn`` is the IEEE division of PyTorch. Clipping before
    rounding gives the same as after it, because the limits are whole numbers, and keeps the
    sum with the rounder exact.
    """
    quotient = tl.math.div_rn(values, step)
    clipped = tl.minimum(tl.maximum(quotient, _LOW), _HIGH)
    return ((clipped + _ROUNDER) - _ROUNDER).to(tl.int8)
