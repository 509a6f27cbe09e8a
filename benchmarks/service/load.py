"""The service under load: `python -m benchmarks.service.load [--model M] [--seconds 10]`.

Starts the real server on a free loopback port and prints each figure with its goal; the last line
is the same as JSON. One run measures:

* the machine's upper bound: the pipeline without a network in as many processes as image workers,
  the network alone in batches, and the callers' rate against a fixed answer of the same size
  (`load_bound`);
* one caller, and `--callers` concurrent ones against the smaller bound, with the overlay as PNG, as
  JPEG and without;
* on a CPU, sixteen callers and the engine alone alternately, with the same number of threads;
* overload from four times as many callers as the queue has places, and from twice as many with the
  documented retry loop;
* the growth of memory over `--requests` mixed requests, including bad ones.

Further flags go to the server, such as `--devices cuda:0`. Callers and server share the machine's
cores, so the rates are lower than with callers on other machines. `other_cores` is the number of
cores that other programs used.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.processor import processor_name
from benchmarks.service.caller_processes import callers_in_processes
from benchmarks.service.load_bound import LoadPlan, beside_the_bound, bound_of
from benchmarks.service.load_callers import (
    OtherWork,
    callers,
    mixed_requests,
    patient_callers,
    resident_bytes,
)
from benchmarks.service.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.service.server_process import RunningServer, ServerFailedError, running_server
from model_store.stages import PREDICTION_STAGES

IMAGE_SIDE_PX = 1024
QUEUE_PLACES = 8
SIXTEEN_FITS = 16
"""Flags for the phase of sixteen callers, so that the server refuses none of them."""
ROUNDS = 3
WARM_UP_REQUESTS = 1500
FINE_STATUSES = {200, 429, 503, 504}

GOALS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "ready_s": ("at most 5", lambda value: value <= 5),
    "share_of_bound_png": ("at least 0.6", lambda value: value >= 0.6),
    "share_of_bound_none": ("at least 0.6", lambda value: value >= 0.6),
    "first_over_median": ("at most 1.5", lambda value: value <= 1.5),
    "outside_the_model_share": ("at most 0.2", lambda value: value <= 0.2),
    "outside_share_no_overlay": ("at most 0.2", lambda value: value <= 0.2),
    "share_of_engine": ("at least 0.95", lambda value: value >= 0.95),
    "overload_share_of_peak": ("at least 0.95", lambda value: value >= 0.95),
    "all_statuses_fine": ("True", bool),
    "broken_connections": ("0", lambda value: value == 0),
    "refusal_median_ms": ("below 50", lambda value: value is None or value < 50),
    "retrying_clients_done": ("1.0", lambda value: value == 1),
    "memory_growth_mb": ("at most 50", lambda value: value <= 50),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 0, or 1 if an answer had an unexpected status."""
    options, flags = _parser().parse_known_args(arguments)
    image = png_of_size(DEFAULT_IMAGE, IMAGE_SIDE_PX)
    plan = LoadPlan(options.model, image, options.seconds, flags)
    report: dict[str, Any] = {}
    try:
        for figures in measured(plan, options.callers, options.requests):
            report |= figures
            _print(figures)
    except ServerFailedError as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0 if report["all_statuses_fine"] else 1


def _print(figures: Mapping[str, Any]) -> None:
    for name, value in figures.items():
        goal, is_met = GOALS.get(name, ("", lambda value: True))
        wanted = f"{goal:<16}{'met' if is_met(value) else 'MISSED'}" if goal else ""
        print(f"{name:<28}{value!s:<34}{wanted}".rstrip(), flush=True)


def measured(plan: LoadPlan, callers_count: int, requests: int) -> Iterator[dict[str, Any]]:
    """Yield the figures of each phase; the server of the overload phase has few places."""
    model, image, seconds, flags = plan.model, plan.image, plan.seconds, plan.flags
    yield {"processor": processor_name(), "cores": len(os.sched_getaffinity(0))}
    bound = bound_of(plan)
    yield dict(bound.figures)
    began = time.perf_counter()
    with running_server(model, [*flags, "--queue-limit", str(SIXTEEN_FITS)]) as server:
        ready_s = time.perf_counter() - began
        device = server.readiness["device"]
        yield {"ready_s": round(ready_s, 2), "device": device}
        yield lone_caller(server, image, seconds)
        if device == "cpu":
            yield beside_the_engine(model, server, image, seconds)
    places = max(64, 2 * callers_count)
    with running_server(model, [*flags, "--queue-limit", str(places)]) as server:
        yield {"callers": callers_count}
        yield from beside_the_bound(plan, bound, server, callers_count)
    with running_server(model, [*flags, "--queue-limit", str(QUEUE_PLACES)]) as server:
        yield overload(server, image, seconds)
    if requests:
        with running_server(model, flags) as server:
            yield memory(server, requests)


def lone_caller(server: RunningServer, image: bytes, seconds: float) -> dict[str, Any]:
    """Measure one caller, on a server that has just become ready."""
    first_s = server.segment(image, {}).seconds
    watch = OtherWork(server)
    with_overlay, share = _alone(server, image, {}, seconds / 2)
    without, share_without = _alone(server, image, {"overlay": "false"}, seconds / 2)
    as_jpeg, _ = _alone(server, image, {"overlay": "jpeg"}, seconds / 2)
    return {
        "one_caller_other_cores": round(watch.cores(), 2),
        "one_caller_median_ms": round(1000 * with_overlay, 1),
        "first_over_median": round(first_s / with_overlay, 2),
        "outside_the_model_share": share,
        "no_overlay_median_ms": round(1000 * without, 1),
        "jpeg_overlay_median_ms": round(1000 * as_jpeg, 1),
        "outside_share_no_overlay": share_without,
    }


def _alone(
    server: RunningServer, image: bytes, fields: Mapping[str, str], seconds: float
) -> tuple[float, float]:
    """Return the median time of an answer, and the median share outside the model."""
    spent: list[float] = []
    shares: list[float] = []
    stop_at = time.monotonic() + seconds
    while time.monotonic() < stop_at or len(spent) < 5:
        answer = server.segment(image, fields)
        if answer.status != 200:
            raise ServerFailedError(f"a lone caller got {answer.status}")
        latency_ms = json.loads(answer.body)["latency_ms"]
        spent.append(answer.seconds)
        model_ms = sum(latency_ms[stage] for stage in PREDICTION_STAGES)
        shares.append(1 - model_ms / 1000 / answer.seconds)
    return statistics.median(spent), round(statistics.median(shares), 3)


def beside_the_engine(
    model: Path | None, server: RunningServer, image: bytes, seconds: float
) -> dict[str, Any]:
    """Measure sixteen callers and the engine alone alternately; return the medians."""
    engine = engine_of(model, image)
    engine_rates, service_rates, others = [], [], []
    statuses: Counter[int] = Counter()
    for _ in range(ROUNDS):
        watch = OtherWork(server)
        engine_rates.append(engine(seconds / 2))
        outcome = callers(server, image, 16, seconds)
        others.append(watch.cores())
        service_rates.append(outcome.goodput)
        statuses += outcome.statuses
    shares = [ours / alone for ours, alone in zip(service_rates, engine_rates, strict=True)]
    return {
        "sixteen_other_cores": [round(one, 2) for one in others],
        "engine_per_s": [round(one, 2) for one in engine_rates],
        "sixteen_callers_per_s": [round(one, 2) for one in service_rates],
        "share_of_engine": round(statistics.median(shares), 3),
        "sixteen_statuses": dict(sorted(statuses.items())),
    }


def engine_of(model: Path | None, image: bytes) -> Callable[[float], float]:
    """Load the predictor; return a function that measures its images a second."""
    import torch

    from model_store.model_index import default_model_folder
    from model_store.predictor import PredictionRequest, Predictor
    from service.cpu_allowance import model_threads

    torch.set_num_threads(model_threads())
    predictor = Predictor.load(model or default_model_folder())
    with Image.open(io.BytesIO(image)) as opened:
        request = PredictionRequest(np.asarray(opened.convert("L")))
    predictor.predict_batch([request] * 2)

    def images_per_second(seconds: float) -> float:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            predictor.predict_batch([request] * 4)
            count += 4
        return count / (time.perf_counter() - began)

    return images_per_second


def overload(server: RunningServer, image: bytes, seconds: float) -> dict[str, Any]:
    """Measure four times as many callers as places, and twice as many that retry."""
    watch = OtherWork(server)
    full = callers_in_processes(server.port, image, QUEUE_PLACES + 1, seconds, {})
    over = callers_in_processes(server.port, image, 4 * (QUEUE_PLACES + 1), seconds, {})
    peak = full.goodput
    refused_ms = sorted(1000 * s for s in over.refused_s)
    statuses = full.statuses + over.statuses
    report = {
        "full_per_s": round(full.goodput, 2),
        "overload_per_s": round(over.goodput, 2),
        "overload_share_of_peak": round(over.goodput / peak, 3),
        "refusal_median_ms": round(statistics.median(refused_ms), 1) if refused_ms else None,
        "refusal_p95_ms": round(refused_ms[int(0.95 * len(refused_ms))], 1) if refused_ms else None,
        "overload_statuses": dict(sorted(statuses.items())),
        "all_statuses_fine": set(statuses) <= FINE_STATUSES,
        "broken_connections": statuses[0],
    }
    each = max(2, round(seconds / 2))
    done, asked = patient_callers(server, image, 2 * (QUEUE_PLACES + 1), each)
    report["retrying_clients_done"] = done / asked
    report["overload_other_cores"] = round(watch.cores(), 2)
    return report


def memory(server: RunningServer, requests: int) -> dict[str, Any]:
    """Measure how much both processes' memory grows over mixed requests, after a warm-up."""
    mixed_requests(server, WARM_UP_REQUESTS)
    before = resident_bytes(server)
    began = time.monotonic()
    statuses = mixed_requests(server, requests)
    after = resident_bytes(server)
    return {
        "memory_requests": requests,
        "memory_seconds": round(time.monotonic() - began),
        "memory_statuses": dict(sorted(statuses.items())),
        "memory_before_mb": round(before / 2**20, 1),
        "memory_growth_mb": round((after - before) / 2**20, 1),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.load")
    parser.add_argument("--model", type=Path, help="model folder (default: the stored model)")
    parser.add_argument("--callers", type=int, default=32, help="beside the bound")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each phase")
    parser.add_argument(
        "--requests", type=int, default=2000, help="mixed requests for the growth of memory"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
