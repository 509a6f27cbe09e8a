"""Runs that repeat to the bit: the same machine, the same threads, the same weights.

On the CPU, batches that are a pure function of seed and step are all it takes, as long as the
number of threads stays the same. On a GPU some operations add in the order in which threads
happen to finish. This makes torch take others, or refuse where there is none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_WORKSPACE = ":4096:8"
"""Eight buffers of 4 MiB per stream: cuBLAS then never shares a buffer between kernels whose
order is open (cuBLAS documentation, "Results reproducibility"). It is read when CUDA starts."""


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Within the block, allow only operations that give the same result every time.

    Args:
        wanted: False leaves everything as it is.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
