"""A call on fixed shapes, recorded once as a CUDA graph and replayed without Python or launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_WARM_UPS = 3


class CapturedCall:
    """A function of tensors as a CUDA graph.

    The caller must see to it that no two threads call at once: inputs and outputs have one place
    in memory each.
    """

    def __init__(
        self, function: Callable[..., tuple[Tensor, ...]], *examples: Tensor, pool: Any = None
    ) -> None:
        """Run ``function`` a few times, so that kernels are compiled, then record it.

        Args:
            function: Maps tensors to tensors, without waiting for the device.
            examples: Inputs of the shapes that will come; copied.
            pool: Memory pool that several calls share, from ``torch.cuda.graph_pool_handle``.
        """
        self._inputs = tuple(example.clone() for example in examples)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._outputs = function(*self._inputs)

    def replay(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run on new inputs; the outputs are overwritten by the next call."""
        for place, values in zip(self._inputs, inputs, strict=True):
            place.copy_(values)
        self._graph.replay()
        return self._outputs
