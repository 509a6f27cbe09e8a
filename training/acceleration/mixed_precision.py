"""Matrix products in bfloat16, on devices where they are faster.

A CPU without instructions for bfloat16 converts every number before and after a product, which
makes training many times slower than in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Run matrix products within the block in bfloat16 if ``precision`` is ``bf16``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def slow_precision_warning(precision: str, device: torch.device) -> str | None:
    """Return a warning if the precision is slower than float32 on this device, otherwise None."""
    if precision != "bf16" or device.type != "cpu" or cpu_multiplies_bf16():
        return None
    return (
        "precision is bf16, but this CPU has neither AVX512_BF16 nor AMX: a step may take 15 times "
        'as long as with precision = "fp32"'
    )


def cpu_multiplies_bf16() -> bool:
    """Tell whether the CPU has instructions for products in bfloat16."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
