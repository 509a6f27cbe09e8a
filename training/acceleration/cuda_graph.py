"""The gradients of a step as one CUDA graph: thousands of small kernels, launched at once.

A compact model's step is thousands of kernels of some microseconds each. Launched one by one from
Python, they leave the GPU idle; recorded once and replayed, they keep it busy. A graph repeats the
same kernels on the same memory, so every batch must have the shapes of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor


class FixedShapes(Protocol):
    """A batch whose tensors can be moved and overwritten in place."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        ...

    def copy_(self, other: Self) -> None:
        """Take over the values of a batch of the same shapes."""
        ...


Batch = TypeVar("Batch", bound=FixedShapes)

_WARM_UPS = 3
"""Runs before the recording, which compile and choose kernels."""


class CapturedGradients(Generic[Batch]):
    """The gradients of one shape of batch, recorded with its first batch."""

    def __init__(
        self,
        gradients: Callable[[Batch], dict[str, Tensor]],
        parameters: Sequence[Tensor],
        device: torch.device,
    ) -> None:
        """Keep the parts; nothing is recorded yet.

        Args:
            gradients: Function that writes the gradients of a batch to the parameters and returns
                the terms of its loss. It works on batches on the device without synchronization,
                and every step runs the same operations on other values.
            parameters: Parameters that get the gradients, in fixed memory.
            device: A CUDA device.
        """
        self._gradients = gradients
        self._parameters = parameters
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Batch | None = None
        self._terms: dict[str, Tensor] = {}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Replace the gradients by those of a batch, and return the terms of its loss.

        Raises:
            ValueError: The batch has other shapes than the first.
        """
        if self._graph is None:
            self._record(batch)
        assert self._graph is not None and self._batch is not None
        self._batch.copy_(batch)
        self._graph.replay()
        return {name: term.clone() for name, term in self._terms.items()}

    def _record(self, batch: Batch) -> None:
        self._batch = batch.to(self._device)
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._forget_gradients()
                self._gradients(self._batch)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        # Without existing gradients the recording writes new ones instead of adding to them.
        self._forget_gradients()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may still use the device: one pins the memory of later batches.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._terms = self._gradients(self._batch)

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
