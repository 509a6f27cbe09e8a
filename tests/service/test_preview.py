"""`POST /preview`: the values that the service decodes, for a screen."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest

from service.imaging.preview import reduced
from service.imaging.task_data import PREVIEW_LONGEST_SIDE
from tests.dicom_files import as_file, make_xray
from tests.service.fake_model import FakePredictor, Gate, form, make_app, picture, png, running


def ask(**arguments: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with running(make_app()) as client:
            return await client.post("/preview", **arguments)

    return asyncio.run(asked())


def values_of(answer: httpx.Response) -> np.ndarray:
    sides = (answer.headers[f"X-Lungseg-Preview-{side}"] for side in ("Height", "Width"))
    height, width = map(int, sides)
    return np.frombuffer(answer.content, "<u2").reshape(height, width)


def test_a_small_picture_comes_back_value_by_value() -> None:
    answer = ask(**form())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert np.array_equal(values_of(answer), picture())
    sizes = [answer.headers[f"X-Lungseg-Image-{side}"] for side in ("Width", "Height")]
    assert sizes == ["96", "80"]
    assert answer.headers["X-Lungseg-Image-Format"] == "png"
    assert answer.headers["Cache-Control"] == "no-store"


def test_sixteen_bits_stay_and_the_window_leaves_the_extremes_out() -> None:
    pixels = np.linspace(1000, 3000, 96 * 80).reshape(80, 96).astype(np.uint16)
    pixels[0, 0] = 65535
    answer = ask(files={"image": ("x", png(pixels))})
    assert np.array_equal(values_of(answer), pixels)
    low, high = (int(answer.headers[f"X-Lungseg-Window-{name}"]) for name in ("Low", "High"))
    assert 1000 <= low < 1010 and 2990 < high <= 3000


def test_dicom_is_shown_as_the_model_sees_it() -> None:
    dataset = make_xray()
    answer = ask(files={"image": ("x", as_file(dataset))})
    assert answer.status_code == 200
    assert answer.headers["X-Lungseg-Image-Format"] == "dicom"
    assert values_of(answer).shape == (dataset.Rows, dataset.Columns)


@pytest.mark.parametrize(
    "shape", [(40, 4001), (3203, 1601), (PREVIEW_LONGEST_SIDE, PREVIEW_LONGEST_SIDE)]
)
def test_a_large_picture_is_reduced_to_means_of_squares(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)
    small = reduced(pixels, PREVIEW_LONGEST_SIDE)
    step = -(-max(shape) // PREVIEW_LONGEST_SIDE)
    assert max(small.shape) <= PREVIEW_LONGEST_SIDE
    assert small.shape == (shape[0] // step, shape[1] // step)
    last = pixels[(small.shape[0] - 1) * step :, :step][:step]
    assert abs(float(small[-1, 0]) - last.mean()) <= 0.5


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ({"files": {"image": ("x", b"GIF89a" + bytes(40))}}, 415, "unsupported_media_type"),
        ({"files": {"image": ("x", png(picture())[:200])}}, 400, "undecodable_image"),
        ({"files": {"picture": ("x", b"x")}}, 422, "invalid_field"),
        ({"data": {"overlay": "1"}, "files": {"image": ("x", b"x")}}, 422, "invalid_field"),
        ({"files": {"x": ("", b"")}}, 422, "invalid_field"),
    ],
)
def test_what_is_refused_is_named(arguments: dict[str, Any], status: int, code: str) -> None:
    answer = ask(**arguments)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_looking_needs_no_network() -> None:
    gate = Gate()

    async def asked() -> int:
        app = make_app(FakePredictor(before=gate.hold))
        async with running(app) as client:
            blocked = asyncio.create_task(client.post("/segment", **form()))
            await asyncio.to_thread(gate.entered.wait, 10)
            status = (await client.post("/preview", **form())).status_code
            gate.opened.set()
            await blocked
            return status

    assert asyncio.run(asked()) == 200


def test_it_asks_for_a_key_where_masks_do(tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("0" * 64 + "\n")

    async def asked() -> int:
        async with running(make_app(api_keys_file=keys)) as client:
            return (await client.post("/preview", **form())).status_code

    assert asyncio.run(asked()) == 401
