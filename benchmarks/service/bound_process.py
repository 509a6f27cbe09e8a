"""One process of `bounds`: the pipeline without a network, or the network without a pipeline."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model_store.postprocessing import MaskLogits
from service.http.form import read_form
from service.imaging.answer_data import AnswerContext
from service.imaging.answer_schema import ModelIdentity
from service.imaging.segment_request import AnswerKind, SegmentRequest
from service.settings import settings_from

Work = Callable[[], int]
"""Does the work once; returns the number of X-rays."""


def pipelines_of(plan: Mapping[str, Any]) -> Iterator[Work]:
    """Yield, for each kind of overlay, a function that makes one answer as an image worker does."""
    from service.heap import keep_one_heap
    from service.imaging.answering import answer_of
    from service.imaging.opening import open_xray

    keep_one_heap()
    data = Path(plan["image"]).read_bytes()
    logits = np.load(plan["logits"])
    model = ModelIdentity(
        name="none", version="0", sha256="0" * 64, precision="int8", weight_bits=8, device="none"
    )

    def once(request: SegmentRequest) -> int:
        opening = open_xray(data, request, plan["input_size"], 1 << 26, time.perf_counter())
        now = time.perf_counter()
        context = AnswerContext("bound", model, opening.stage_seconds, now, now)
        found = [MaskLogits(opening.prepared.boxes[0], logits, 0.9)]
        answer_of(opening.xray, found, context)
        return 1

    for overlay in plan["kinds"]:
        fields = [("image", b""), ("overlay", overlay.encode())]
        yield partial(once, read_form(fields, AnswerKind.JSON, max_boxes=1))


def networks_of(plan: Mapping[str, Any]) -> Iterator[Work]:
    """Yield one call of the network for each batch size; write the logits of the X-ray."""
    from model_store.pictures.picture_reading import read_picture
    from model_store.prediction import PredictionRequest
    from model_store.preprocessing import prepare
    from service.compute.stored_model import make_stored_model

    folder = [] if plan["model"] is None else ["--model", plan["model"]]
    model = make_stored_model(settings_from(["--device", plan["device"], *folder], {}))
    while model.record_further():
        pass
    pixels = read_picture(Path(plan["image"]).read_bytes(), max_pixels=1 << 26).pixels
    request = prepare(PredictionRequest(pixels), model.info.input_size)
    np.save(plan["logits"], model.answer(request).masks[0].logits)
    for size in plan["kinds"]:
        yield partial(_called, model, [request] * size)


def _called(model: Any, batch: list[Any]) -> int:
    return len(model.answer_batch(batch))


def main() -> int:
    """Measure each kind of the plan, one for each line of input; return 0, the exit code."""
    plan = json.loads(sys.argv[1])
    for once in pipelines_of(plan) if plan["part"] == "pipeline" else networks_of(plan):
        for _ in range(3):
            once()
        print("ready", flush=True)
        sys.stdin.readline()
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < plan["seconds"]:
            count += once()
        print(count / (time.perf_counter() - began), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
