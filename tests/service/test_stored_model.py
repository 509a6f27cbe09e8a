"""The stored model says in the process's own kinds how PyTorch failed."""

from __future__ import annotations

import pytest
import torch

from service.compute.compute_process import failure_of
from service.compute.stored_model import _device_errors


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False, True),
        (RuntimeError("shapes do not match"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_kinds_of_failure(error: Exception, memory: bool, lost: bool) -> None:
    with pytest.raises(Exception) as caught, _device_errors():
        raise error
    failure = failure_of(caught.value)
    assert (failure.out_of_memory, failure.device_lost) == (memory, lost)
    assert failure.error_type == type(error).__name__
