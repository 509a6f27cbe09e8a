"""Training in several processes at once, started by ``torchrun``.

Every process takes its share of each step's X-rays, and torch's `DistributedDataParallel` averages
the gradients. So every process makes the same step, with the same weights, running mean and ranks
of AdaLoRA. Only the first process (the writer) writes files. NCCL transfers tensors on GPUs; gloo
transfers flags and scores on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, from the view of one of them.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        local_rank: Number of this process on its machine, which is also its GPU.
        attempt: Number of restarts by ``torchrun`` after one of them died.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    attempt: int = 0

    def __post_init__(self) -> None:
        """Refuse ranks out of range."""
        if not 0 <= self.rank < self.count or self.local_rank < 0:
            raise ValueError(f"process {self.rank} of {self.count} (local {self.local_rank})")

    @property
    def is_writer(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's share: every ``count``-th item, from its own rank on."""
        return items[self.rank :: self.count]

    def device(self, chosen: torch.device) -> torch.device:
        """Return this process's own device: a GPU for each process of a machine, or the CPU."""
        return torch.device("cuda", self.local_rank) if chosen.type == "cuda" else chosen

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Connect the processes within the block; each computes on a device."""
        if self.count == 1:
            yield
            return
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        # torchrun has one store for all attempts. Without its own prefix an attempt finds the
        # addresses of earlier processes, and waits forever or is refused.
        store, _, _ = next(rendezvous("env://", rank=self.rank, world_size=self.count))
        own = distributed.PrefixStore(  # type: ignore[attr-defined]
            f"attempt_{self.attempt}", store
        )
        distributed.init_process_group(backend, store=own, rank=self.rank, world_size=self.count)
        try:
            yield
        finally:
            distributed.destroy_process_group()

    def averaging(self, model: nn.Module) -> nn.Module:
        """Return the model to call in training: backward passes through it average gradients.

        The weights of the first process replace those of the others.
        """
        if self.count == 1:
            return model
        return DistributedDataParallel(model, broadcast_buffers=False)

    def without_averaging(self, model: nn.Module) -> AbstractContextManager[None]:
        """Accumulate gradients in each process within the block, for parts of a batch."""
        if isinstance(model, DistributedDataParallel):
            return model.no_sync()
        return nullcontext()

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        if self.count == 1:
            return flag
        shared = torch.tensor(int(flag))
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return bool(shared.item())

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of each number over the processes."""
        if self.count == 1:
            return dict(values)
        shared = torch.tensor(list(values.values()), dtype=torch.float64)
        distributed.all_reduce(shared)
        return dict(zip(values, (shared / self.count).tolist(), strict=True))

    def gather(self, own: Sequence[Item]) -> list[Item]:
        """Return the items that `share` divided, joined in the original order."""
        if self.count == 1:
            return list(own)
        shares: list[Sequence[Item]] = [()] * self.count
        distributed.all_gather_object(shares, own)
        total = sum(len(share) for share in shares)
        return [shares[place % self.count][place // self.count] for place in range(total)]

    def from_writer(self, make: Callable[[], Item]) -> Item:
        """Return the writer's result of ``make``; the other processes never call it."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.is_writer else None]
        distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        result: Item = box[0]
        return result

    def require_equal(self, what: str, value: str) -> None:
        """Stop if the processes have diverged.

        Raises:
            RuntimeError: ``value`` is not the same in every process.
        """
        if self.count == 1:
            return
        values: list[str] = [""] * self.count
        distributed.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise RuntimeError(f"{what} differ between processes: {', '.join(values)}")


ONE_PROCESS = Processes()


def processes_from_environment(environment: Mapping[str, str]) -> Processes:
    """Read the variables of ``torchrun``; without them there is one process."""
    if "WORLD_SIZE" not in environment:
        return ONE_PROCESS
    return Processes(
        rank=int(environment["RANK"]),
        count=int(environment["WORLD_SIZE"]),
        local_rank=int(environment["LOCAL_RANK"]),
        attempt=int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )
