"""What the service does under load: `python -m benchmarks.load [--model M] [--seconds 10]`.

Starts the real server on a free loopback port, measures one caller, sixteen callers, and overload
from four times as many callers as the queue has places, and prints the figures beside their goals;
the last line is the same as JSON. The engine's own rate is measured in the same run, before the
server starts, with as many threads as the server gives it. Callers and server share the machine's
cores, so the rates are lower than with callers elsewhere.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.segment_latency import DEFAULT_IMAGE, png_of_size
from benchmarks.server_process import RunningServer, ServerFailedError, running_server

IMAGE_SIDE_PX = 1024
QUEUE_PLACES = 8
MODEL_STAGES = ("preprocess", "encode_image", "decode_mask", "postprocess")
FINE_STATUSES = {200, 429, 503, 504}


@dataclass
class Outcome:
    """What the callers of one phase saw.

    Attributes:
        seconds: length of the phase.
        statuses: how often each status came; 0 stands for a broken connection.
        good_s: seconds of each answer 200.
        refused_s: seconds of each answer 429.
    """

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    good_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """Masks a second."""
        return self.statuses[200] / self.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns 0, or 1 when an answer had a status that it must not have."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("--model", type=Path, help="model folder (default: the stored model)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each phase")
    options = parser.parse_args(arguments)
    image = png_of_size(DEFAULT_IMAGE, IMAGE_SIDE_PX)
    engine_rate = engine_images_per_second(options.model, image, options.seconds)
    flags = ["--queue-limit", str(QUEUE_PLACES)]
    began = time.perf_counter()
    try:
        with running_server(options.model, flags) as server:
            ready_s = time.perf_counter() - began
            report = measured(server, image, options.seconds)
    except ServerFailedError as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    report |= {"ready_s": round(ready_s, 2), "engine_per_s": round(engine_rate, 2)}
    report["share_of_engine"] = round(report["sixteen_callers_per_s"] / engine_rate, 3)
    for name, value in report.items():
        print(f"{name:<28}{value}")
    print(json.dumps(report))
    return 0 if report["all_statuses_fine"] else 1


def engine_images_per_second(model: Path | None, image: bytes, seconds: float) -> float:
    """Measures the predictor alone, in this process, with the threads that the service uses."""
    import torch

    from model_store.predictor import PredictionRequest, Predictor
    from service.compute.cpu_allowance import model_threads
    from service.settings import default_model_folder

    torch.set_num_threads(model_threads())
    predictor = Predictor.load(model or default_model_folder())
    with Image.open(io.BytesIO(image)) as opened:
        request = PredictionRequest(np.asarray(opened.convert("L")))
    predictor.predict_batch([request] * 2)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        predictor.predict_batch([request] * 4)
        count += 4
    return count / (time.perf_counter() - began)


def measured(server: RunningServer, image: bytes, seconds: float) -> dict[str, Any]:
    """Runs the phases on a server that has just become ready."""
    first = server.segment(image, {})
    alone, model_share = one_caller(server, image, seconds)
    sixteen = callers(server, image, 16, seconds)
    overload = callers(server, image, 4 * (QUEUE_PLACES + 1), seconds)
    median_s = statistics.median(alone)
    peak = max(sixteen.goodput, overload.goodput, 1 / median_s)
    refused_ms = sorted(1000 * s for s in overload.refused_s)
    statuses = sixteen.statuses + overload.statuses
    return {
        "cores": len(os.sched_getaffinity(0)),
        "first_over_median": round(first.seconds / median_s, 2),
        "one_caller_median_ms": round(1000 * median_s, 1),
        "outside_the_model_share": round(1 - model_share, 3),
        "sixteen_callers_per_s": round(sixteen.goodput, 2),
        "overload_per_s": round(overload.goodput, 2),
        "overload_share_of_peak": round(overload.goodput / peak, 3),
        "refusal_median_ms": round(statistics.median(refused_ms), 1) if refused_ms else None,
        "refusal_p95_ms": round(refused_ms[int(0.95 * len(refused_ms))], 1) if refused_ms else None,
        "statuses": dict(sorted(statuses.items())),
        "all_statuses_fine": set(statuses) <= FINE_STATUSES,
    }


def one_caller(server: RunningServer, image: bytes, seconds: float) -> tuple[list[float], float]:
    """Returns the seconds of each answer, and the median share that the model has in one."""
    spent: list[float] = []
    shares: list[float] = []
    stop_at = time.monotonic() + seconds
    while time.monotonic() < stop_at or len(spent) < 5:
        answer = server.segment(image, {})
        if answer.status != 200:
            raise ServerFailedError(f"a lone caller got {answer.status}")
        latency_ms = json.loads(answer.body)["latency_ms"]
        spent.append(answer.seconds)
        model_ms = sum(latency_ms[stage] for stage in MODEL_STAGES)
        shares.append(model_ms / 1000 / answer.seconds)
    return spent, statistics.median(shares)


def callers(server: RunningServer, image: bytes, count: int, seconds: float) -> Outcome:
    """Lets `count` callers send one request after the other; refused ones pause a little."""
    outcome = Outcome()
    lock = threading.Lock()
    began = time.monotonic()

    def call() -> None:
        while time.monotonic() - began < seconds:
            try:
                answer = server.segment(image, {})
                status, spent_s = answer.status, answer.seconds
            except OSError:
                status, spent_s = 0, 0.0
            with lock:
                outcome.statuses[status] += 1
                if status == 200:
                    outcome.good_s.append(spent_s)
                elif status == 429:
                    outcome.refused_s.append(spent_s)
            if status != 200:
                time.sleep(0.25)

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcome.seconds = time.monotonic() - began
    return outcome


if __name__ == "__main__":
    sys.exit(main())
