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
        make: Pure function that makes the batch of a step, in any process.
        steps: Numbers of the steps, in order.
        workers: Processes that make batches; 0 makes each on request.
        pin_memory: Whether batches are in pinned memory.
    """
    loader = DataLoader(
        _BatchOfStep(make), batch_size=None, sampler=list(steps), num_workers=workers,
        prefetch_factor=2 if workers else None, worker_init_fn=leave_interrupts_to_the_parent,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its base seed must not use the training's random state
    )  # fmt: skip
    yield from loader


def leave_interrupts_to_the_parent(worker: int = 0) -> None:
    """Ignore Ctrl-C in a worker process, which a terminal sends to all processes.

    A worker that ended would break the step that the parent finishes. SIGTERM still works, because
    Python uses it to end the workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
