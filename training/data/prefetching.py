"""Batches made ahead by worker processes, in the order of their steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from training.data.batches import TrainingBatch


class _BatchOfStep(Dataset[TrainingBatch]):
    """The batches of a source, by step number."""

    def __init__(self, make: Callable[[int], TrainingBatch]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> TrainingBatch:
        return self._make(step)


def prefetched(
    make: Callable[[int], TrainingBatch],
    steps: Iterable[int],
    workers: int,
    pin_memory: bool = False,
) -> Iterator[TrainingBatch]:
    """Yield ``make(step)`` for each step, in order, made ahead by worker processes.

    Args:
        make: Makes the batch of a step; a pure function, so any process may call it.
        steps: The steps.
        workers: Processes that make batches; 0 makes each when it is asked for.
        pin_memory: Whether batches lie where a GPU copies from without waiting.
    """
    loader = DataLoader(
        _BatchOfStep(make), batch_size=None, sampler=list(steps), num_workers=workers,
        prefetch_factor=2 if workers else None, worker_init_fn=leave_interrupts_to_the_parent,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its base seed must not draw from the training's
    )  # fmt: skip
    yield from loader


def leave_interrupts_to_the_parent(worker: int = 0) -> None:
    """Ignore Ctrl-C in a worker process, to which a terminal sends it too.

    A worker that ended on its own would break the step that the parent wants to finish. SIGTERM
    is left alone: it is how Python ends the workers of a parent that goes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
