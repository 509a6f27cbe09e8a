"""A fake model and a client for it: the HTTP tests need no stored model."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from PIL import Image

from model_store.geometry import window_to_uint8
from model_store.manifest import Distribution, QualityHeadFile
from model_store.postprocessing import MaskLogits, NetworkAnswer
from model_store.preprocessing import PreparedRequest
from model_store.self_test_result import SelfTestResult
from service.app import create_app
from service.compute.model_handle import Memory
from service.compute.network_arrays import network_output, prepared_request
from service.compute.network_data import NetworkInput, NetworkOutput
from service.errors import ComputeLost
from service.settings import Settings
from tests.service.in_process_pool import in_process_pool

INPUT_SIDE = 96
"""Longer side of `picture`, so that nothing is scaled."""


@dataclass(frozen=True)
class FakeSelfTest:
    """Stands for the self test of a manifest: its image is the default model's."""

    image_file: str = "golden_image.png"


@dataclass(frozen=True)
class FakeManifest:
    """Stands for the manifest of an artifact."""

    conventions: tuple[str, ...] = ("lung_field", "whole_lung")
    self_test: FakeSelfTest = FakeSelfTest()
    quality_head: QualityHeadFile | None = None
    structures: Mapping[str, int] = field(default_factory=dict)
    training_distributions: Mapping[str, Distribution] = field(default_factory=dict)

    def kind_of(self, quality: Mapping[str, float] | None) -> tuple[str, ...]:
        """Returns what the head says, as a manifest does."""
        return (
            ()
            if self.quality_head is None or quality is None
            else self.quality_head.labels_for(quality)
        )

    def model_dump(self, mode: str = "python") -> dict[str, Any]:
        """Returns what `/v1/model` shows."""
        return {"format_version": 1, "intended_use": "tests"}


@dataclass(frozen=True)
class FakeInfo:
    """Stands for `ModelInfo`."""

    name: str = "fake"
    version: str = "1"
    sha256: str = "0" * 64
    precision: str = "int8"
    weight_bits: int = 8
    device: str = "cpu"
    engine: str = "fake"
    input_size: int = INPUT_SIDE
    manifest: FakeManifest = FakeManifest()
    fallback_reason: str | None = None


PASSED = SelfTestResult(passed=True, agreement=1.0, minimum=0.99, seconds=0.01)
FAILED = SelfTestResult(passed=False, agreement=0.4, minimum=0.99, seconds=0.01)


@dataclass
class FakePredictor:
    """Thresholds the image inside each box, so that every answer shows whose it is.

    Images whose longer side has `INPUT_SIDE` pixels come back pixel by pixel: `thresholded`.

    Attributes:
        before: called with each image, in a list, before it is answered; may block or raise.
        batch_sizes: size of every call.
        is_running: whether its process is there.
        test: makes the result of a self test.
        quality: what its quality head finds; None for none.
    """

    before: Callable[[Sequence[Any]], None] = lambda requests: None
    info: Any = field(default_factory=FakeInfo)
    batch_sizes: list[int] = field(default_factory=list)
    is_running: bool = True
    test: Callable[[], SelfTestResult] = lambda: PASSED
    memory: Memory = field(default_factory=Memory)
    quality: Mapping[str, float] | None = None

    def answer_batch(self, requests: Sequence[NetworkInput]) -> Iterable[Any]:
        """Answers a batch; what `before` raises about an image stands in its place."""
        self.batch_sizes.append(len(requests))
        return [self._answer(request) for request in requests]

    def _answer(self, request: NetworkInput) -> Any:
        try:
            self.before([request])
        except ComputeLost:
            raise
        except Exception as error:
            return error
        return dataclasses.replace(output_about(request), quality=self.quality)

    def answer_is_there(self, wake: int) -> bool:
        """Has computed when it is asked."""
        return True

    def self_test(self) -> SelfTestResult:
        """Runs `test`."""
        return self.test()

    def close(self) -> None:
        """Ends nothing."""


def output_about(given: NetworkInput) -> NetworkOutput:
    """Says what `answer_to` says, in bytes."""
    return network_output(answer_to(prepared_request(given)))


def answer_to(request: PreparedRequest) -> NetworkAnswer:
    """Says of each pixel in a box that it is lung with a probability of its grey value.

    The heart is where the grey value is near 100.
    """
    share = (request.pixels.astype(np.float64) + 0.5) / 256
    heart = np.where(abs(request.pixels.astype(int) - 100) < 10, 9.0, -9.0)
    said = {"lungs": np.log(share / (1 - share)), "heart": heart}
    masks = []
    for box in request.boxes:
        x0, y0, x1, y1 = (round(value) for value in request.geometry.box_to_input(box))
        for structure in request.structures:
            logits = np.full(share.shape, -1000, np.float32)
            logits[y0:y1, x0:x1] = said[structure][y0:y1, x0:x1]
            masks.append(MaskLogits(box, logits, 0.9, structure))
    return NetworkAnswer(tuple(masks), {"encode_image": 0.002, "decode_mask": 0.003})


def thresholded(pixels: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Returns the mask (H, W) that `FakePredictor` makes the service draw in a box around all."""
    return (window_to_uint8(pixels) + 0.5) / 256 > threshold


@dataclass
class FakeSource:
    """Stands for the loader: gives one model, again and again.

    Attributes:
        model: the model.
        is_good: what a recheck finds.
        events: what was asked, in order.
    """

    model: Any
    is_good: bool = True
    events: list[str] = field(default_factory=list)

    def load(self) -> Any:
        """Gives the model."""
        return self.model

    def reload(self) -> Any:
        """Gives the model again."""
        self.events.append("reload")
        return self.model

    def recheck(self) -> bool:
        """Tells what is to be found."""
        self.events.append("recheck")
        return self.is_good

    def lose(self) -> None:
        """Notes it."""
        self.events.append("lose")


class Gate:
    """Holds a model call until the test opens it."""

    def __init__(self) -> None:
        """Starts closed."""
        self.entered = threading.Event()
        self.opened = threading.Event()

    def hold(self, requests: Sequence[Any]) -> None:
        """Waits for `opened`; use as `FakePredictor.before`."""
        self.entered.set()
        assert self.opened.wait(20)


def make_app(predictor: FakePredictor | None = None, **settings: Any) -> FastAPI:
    """Builds an app on a fake predictor with a self test that passes."""
    made = predictor if predictor is not None else FakePredictor()
    return create_app(
        Settings(**settings),
        predictor_factory=lambda _: made,
        pool_factory=in_process_pool,
    )


@asynccontextmanager
async def running(app: FastAPI, *, wait: bool = True) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Starts an app, without a socket, and gives a client; waits until it is ready."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client,
    ):
        if wait:
            await until(lambda: app.state.service.readiness.state.value != "loading")
        yield client


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


def picture(seed: int = 0, size: tuple[int, int] = (96, 80)) -> np.ndarray:
    """Draws blurred noise, (H, W) uint8, another one for each seed."""
    width, height = size
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def png(pixels: np.ndarray) -> bytes:
    """Encodes grey pixels as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def form(
    pixels: np.ndarray | None = None, name: str = "image.png", **fields: Any
) -> dict[str, Any]:
    """Returns httpx's arguments for one request with an image and fields."""
    data = png(picture() if pixels is None else pixels)
    return {"files": {"image": (name, data, "image/png")}, "data": fields}


def pixels_of(data: bytes) -> np.ndarray:
    """Decodes a picture."""
    return np.asarray(Image.open(io.BytesIO(data)))


def sample(app: FastAPI, name: str, /, **labels: str) -> float:
    """Reads a metric; 0 when it has no such labels yet."""
    value = app.state.service.metrics.registry.get_sample_value(name, labels)
    return 0.0 if value is None else float(value)


def assert_nothing_is_held(app: FastAPI) -> None:
    """No place, no byte and no gauge is left behind."""
    service = app.state.service
    assert (service.admission.waiting, service.admission.inside) == (0, 0)
    assert service.admission.uploads.held_bytes == 0
    assert service.requests_running == 0
    assert sample(app, "lungseg_inflight") == 0
