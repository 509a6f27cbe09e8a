"""The service against the machine's upper bound, in the same run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.service.bounds import network_rates, pipeline_rates
from benchmarks.service.caller_processes import (
    THREADS_PER_PROCESS,
    callers_in_processes,
    empty_server,
)
from benchmarks.service.server_process import RunningServer
from model_store.artifact import read_manifest
from model_store.model_index import default_model_folder
from service.compute.visible_gpus import visible_gpus
from service.cpu_allowance import image_workers
from service.settings import ALL_DEVICES, settings_from

OVERLAYS: Mapping[str, str] = {"png": "true", "jpeg": "jpeg", "none": "false"}
"""Values of the form's field, by their names in the figures."""


@dataclass(frozen=True)
class LoadPlan:
    """The requests of a measurement, and the server's flags.

    Attributes:
        model: model folder; the default model when None.
        image: bytes of the PNG that all callers send.
        seconds: length of each phase.
        flags: further flags of the server.
    """

    model: Path | None
    image: bytes
    seconds: float
    flags: Sequence[str]


@dataclass(frozen=True)
class Bound:
    """The machine's upper bound.

    Attributes:
        figures: everything measured.
        per_s: X-rays a second by kind of overlay: the smaller of pipeline and network.
    """

    figures: Mapping[str, Any]
    per_s: Mapping[str, float]


def bound_of(plan: LoadPlan) -> Bound:
    """Measure pipeline and network alone, each with nothing else running."""
    settings = settings_from(plan.flags, {})
    devices = _devices(settings.devices, settings.device)
    gpus = sum(device != "cpu" for device in devices)
    workers = settings.image_workers or image_workers(gpus=gpus)
    folder = plan.model or default_model_folder()
    input_size = int(read_manifest(folder).architecture["input_size"])
    with TemporaryDirectory() as name:
        image, logits = Path(name) / "image.png", Path(name) / "logits.npy"
        image.write_bytes(plan.image)
        figures: dict[str, Any] = {"devices": ",".join(devices), "image_workers": workers}
        figures |= network_rates(plan.model, image, devices, plan.seconds / 2, logits)
        network = max(rate for key, rate in figures.items() if key.startswith("network_per_s"))
        overlays = list(OVERLAYS.values())
        rates = pipeline_rates(image, input_size, workers, plan.seconds / 2, overlays, logits)
    per_s: dict[str, float] = {}
    for kind, rate in zip(OVERLAYS, rates, strict=True):
        figures[f"pipeline_per_s_{kind}"] = rate
        per_s[kind] = figures[f"bound_per_s_{kind}"] = min(rate, network)
    return Bound(figures, per_s)


def beside_the_bound(
    plan: LoadPlan, bound: Bound, server: RunningServer, count: int
) -> Iterator[dict[str, Any]]:
    """Measure many callers for each kind of overlay, and their rate against an empty server.

    Args:
        plan: requests that they send.
        bound: upper bound from `bound_of`.
        server: server with a place for each caller.
        count: number of callers.
    """
    for kind, overlay in OVERLAYS.items():
        fields = {"overlay": overlay}
        answer_bytes = len(server.segment(plan.image, fields).body)
        outcome = callers_in_processes(server.port, plan.image, count, plan.seconds, fields)
        with empty_server(max(1, count // THREADS_PER_PROCESS), answer_bytes) as port:
            seconds = max(2.0, plan.seconds / 2)
            empty = callers_in_processes(port, plan.image, count, seconds, fields)
        found = {
            f"service_per_s_{kind}": round(outcome.goodput, 1),
            f"share_of_bound_{kind}": round(outcome.goodput / bound.per_s[kind], 3),
            f"statuses_{kind}": dict(sorted(outcome.statuses.items())),
            f"callers_per_s_{kind}": round(empty.goodput, 1),
        }
        if outcome.good_s:
            found[f"median_ms_{kind}"] = round(1000 * statistics.median(outcome.good_s), 1)
        yield found


def _devices(devices: str, device: str) -> list[str]:
    """Return the devices that a server with these settings uses, as `bounds` names them."""
    if devices != ALL_DEVICES:
        return devices.split(",")
    if device == "cpu" or (device == "auto" and visible_gpus() == 0):
        return ["cpu"]
    if ":" in device:
        return [device]
    return [f"cuda:{number}" for number in range(max(1, visible_gpus()))]
