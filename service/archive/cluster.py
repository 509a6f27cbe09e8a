"""Start or join Ray, count the actors that fit, and stream batches to them.

All settings of Ray are here. Usage reports are off, and every client needs the token. Anyone who
reaches its ports and has the token can run any program.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow

from service.archive.errors import ArchiveError
from service.archive.units import Unit, UnitPlan
from service.cpu_allowance import allowed_cpus

OBJECT_STORE_BYTES = 200 * 1024 * 1024
"""Size of the object store, which has only names of files and counts."""
BATCHES_AT_ONCE = 2
"""Concurrent batches of an actor: while the last X-rays of one are rendered, those of the next are
opened."""


@dataclass(frozen=True)
class UnitSize:
    """The processors and GPUs of an actor."""

    cpus: float
    gpus: float  # may be a fraction; 0 for none


@contextmanager
def joined(address: str | None, cpus: int | None = None) -> Iterator[None]:
    """Run Ray within the block: join a cluster, or start Ray here and stop it at the end.

    Args:
        address: address of a cluster's head node; None starts Ray on this machine.
        cpus: processors that Ray may use here; None for those that this process may use.

    Raises:
        ArchiveError: Ray is not installed, or there is no cluster at the address.
    """
    # Ray reads them at import.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise ArchiveError("Ray is not installed: pip install 'adalora-qat[ray]'.") from None
    here: dict[str, Any] = {
        "num_cpus": cpus or allowed_cpus(),  # Ray itself counts the host's
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own deprecations
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level="warning",
                **({} if address else here),
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ArchiveError(f"Ray cannot be reached: {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


def most_units(size: UnitSize) -> int:
    """Return how many actors of this size fit on the hosts, at least 1."""
    import ray

    rooms = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            room = has.get("CPU", 0.0) / size.cpus
            if size.gpus:
                room = min(room, _gpu_room(has.get("GPU", 0.0), size.gpus))
            rooms.append(int(room + 1e-6))
    return max(1, sum(rooms))


def gpu_hosts() -> list[tuple[float, float]]:
    """Return the processors and GPUs of each host that has a GPU."""
    import ray

    has = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(one.get("CPU", 0.0), one["GPU"]) for one in has if one.get("GPU", 0.0) >= 1]


def segmented_batches(
    plan: UnitPlan, batches: Sequence[pyarrow.Table], size: UnitSize, actors: int
) -> Iterator[tuple[int, int]]:
    """Segment batches on a pool of actors; Ray keeps only the batches in progress.

    A killed actor starts again, on another host if its own is gone, and gets its batches again.

    Args:
        plan: model, settings and output of each actor.
        batches: rows of `INPUT_SCHEMA`; equally many in each, in the last one perhaps fewer.
        size: processors and GPUs of an actor.
        actors: number of actors.

    Yields:
        X-rays done and failed of each finished batch.

    Raises:
        ArchiveError: an actor cannot continue; finished parts stay.
    """
    import ray.data  # sets its loggers up

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # Ray announces every run
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    data = ray.data.from_arrow(list(batches)).map_batches(
        Unit,
        fn_constructor_args=(plan,),
        batch_size=batches[0].num_rows,  # a batch each; Ray asks for the number where GPUs are used
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=actors,
            max_tasks_in_flight_per_actor=BATCHES_AT_ONCE + 1,
            max_concurrent_calls_per_actor=BATCHES_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=size.cpus,
        num_gpus=size.gpus or None,
    )
    try:
        for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist():
                yield row["done"], row["failed"]
    except ray.exceptions.RayError as error:
        raise ArchiveError(_reason(error)) from None


def _gpu_room(gpus: float, share: float) -> float:
    """Return how many actors fit on GPUs; a share of a GPU never spans two GPUs."""
    if share >= 1:
        return gpus / share
    return int(gpus) * int(1 / share + 1e-6)


def _reason(error: BaseException) -> str:
    """Return the innermost message: Ray wraps an actor's exception more than once."""
    cause: BaseException | None = error
    while cause is not None:
        error, cause = cause, getattr(cause, "cause", None) or cause.__cause__
    return " ".join(str(error).split())
