"""The warm-up runs the whole of decoding and drawing, and the service starts with it."""

from __future__ import annotations

import pytest
from fake_model import make_app, running, until

from service.imaging import warm_up
from service.pipeline import segmentation

pytestmark = pytest.mark.anyio


def test_it_runs() -> None:
    warm_up.decode_and_render_once()


async def test_each_image_thread_is_warmed_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(segmentation, "decode_and_render_once", lambda: calls.append(1))
    async with running(make_app(image_threads=3)):
        await until(lambda: len(calls) == 3)
