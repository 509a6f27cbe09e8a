"""Runs that repeat to the bit on the same machine with the same number of threads.

On the CPU that only needs batches that are a pure function of seed and step, and a fixed number of
threads. On a GPU some operations add in the order in which threads finish. This module makes torch
use others, or refuse if there are none.
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
    """Allow only deterministic operations within the block.

    Args:
        wanted: False changes nothing.
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
