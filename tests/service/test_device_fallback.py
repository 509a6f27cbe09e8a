"""A GPU without its fused kernels still serves, and everyone who looks is told."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.fake_model import FakeInfo, FakePredictor, running
from tests.service.in_process_pool import in_process_pool

pytestmark = pytest.mark.anyio

REASON = "The fused kernels need Triton, which is not installed."


@pytest.mark.parametrize("reason", [None, REASON])
async def test_readiness_log_and_metric_tell_why(
    reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    def factory(settings: Settings) -> Any:
        predictor = FakePredictor()
        predictor.info = FakeInfo(device="cuda", fallback_reason=reason)
        return predictor

    app = create_app(Settings(), pool_factory=in_process_pool, predictor_factory=factory)
    with caplog.at_level(logging.WARNING, logger="service.model"):
        async with running(app) as client:
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["fallback"]) == (200, reason)
            count = 0.0 if reason is None else 1.0
            assert f"lungseg_device_fallback_total {count}" in (await client.get("/metrics")).text
    said = [record for record in caplog.records if record.message == "device fallback"]
    assert len(said) == int(count)
