"""Drift: served X-rays are counted by where they lie in what trained, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

from model_store.geometry import window_to_uint8
from model_store.manifest import Distribution
from service.drift_counters import ComparedModel
from service.metrics import Metrics
from service.trained_range import trained_range
from tests.service.fake_model import (
    FakeInfo,
    FakeManifest,
    FakePredictor,
    form,
    make_app,
    picture,
    running,
    sample,
)

SHARES = ("0.01", "0.5", "0.99")
MODEL = {"name": "fake", "version": "1"}


def distribution(*edges: float) -> Distribution:
    return Distribution(n=100, mean=0, deviation=1, quantiles=dict(zip(SHARES, edges, strict=True)))


def app_trained_on(distributions: Mapping[str, Distribution]) -> FastAPI:
    manifest = FakeManifest(training_distributions=distributions)
    return make_app(FakePredictor(info=FakeInfo(manifest=manifest)))


def counts(app: FastAPI, quantity: str) -> tuple[float, float, list[float]]:
    """Return how many were compared, were outside, and lay below each edge."""
    below = [
        sample(app, "lungseg_drift_below_total", **MODEL, quantity=quantity, quantile=one)
        for one in SHARES
    ]
    compared, outside = (
        sample(app, f"lungseg_drift_{word}_total", **MODEL, quantity=quantity)
        for word in ("compared", "outside")
    )
    return compared, outside, below


def test_a_number_beyond_one_percent_is_outside_and_larger_xrays_are_not() -> None:
    grey = trained_range("grey_level", distribution(70, 150, 200))
    assert [grey.is_outside(one) for one in (69.9, 70, 150, 200, 200.1)] == [
        True, False, False, False, True,
    ]  # fmt: skip
    size = trained_range("pixels", distribution(50_000, 250_000, 330_000))
    assert [size.is_outside(one) for one in (49_999, 8_000_000)] == [True, False]


@pytest.mark.anyio
async def test_each_number_of_an_answered_xray_is_counted_at_its_place() -> None:
    image = picture()
    level = float(window_to_uint8(image).mean())
    app = app_trained_on(
        {
            "grey_level": distribution(level - 20, level - 10, level - 1),  # brighter than all
            "pixels": distribution(100, image.size + 1, 10**7),
            "area_ratio": distribution(0.9, 0.95, 0.99),  # half of it is lung
        }
    )
    async with running(app) as client:
        assert counts(app, "grey_level") == (0, 0, [0, 0, 0])
        assert "grey_level" in (await client.get("/metrics")).text  # before the first X-ray
        assert (await client.post("/segment", **form(image))).status_code == 200
    assert counts(app, "grey_level") == (1, 1, [0, 0, 0])
    assert counts(app, "pixels") == (1, 0, [0, 1, 1])
    assert counts(app, "area_ratio") == (1, 1, [1, 1, 1])
    assert counts(app, "confidence") == (0, 0, [0, 0, 0])  # the manifest does not know it
    assert counts(app, "warned")[0] == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "compares_lungs"),
    [
        ({}, True),
        ({"lungs": "each"}, True),  # as found, whatever the answer makes of it
        ({"bbox": "1,1,40,40"}, False),
        ({"bbox": "1,1,40,40", "clip": "true"}, True),
        ({"threshold": "0.7"}, False),
    ],
)
async def test_lungs_are_compared_where_they_were_asked_for_as_over_training(
    fields: dict[str, Any], compares_lungs: bool
) -> None:
    some = distribution(0.1, 0.5, 0.9)
    app = app_trained_on({"grey_level": some, "area_ratio": some, "confidence": some})
    async with running(app) as client:
        assert (await client.post("/segment", **form(**fields))).status_code == 200
    for name in ("area_ratio", "confidence", "warned"):
        assert counts(app, name)[0] == compares_lungs, name
    assert counts(app, "grey_level")[0] == 1


@pytest.mark.anyio
async def test_a_warning_to_act_on_counts_and_a_refused_upload_does_not() -> None:
    app = app_trained_on({})
    async with running(app) as client:
        constant = np.full((80, 96), 7, np.uint8)
        answer = await client.post("/segment", **form(constant))
        assert {one["severity"] for one in answer.json()["warnings"]} & {"look", "refuse"}
        refused = await client.post("/segment", files={"image": ("a", b"\x89PNG\r\n\x1a\n no")})
        assert refused.status_code == 400
    assert counts(app, "warned")[:2] == (1, 1)


def test_each_model_has_its_own_ranges_and_series() -> None:
    drift = Metrics(queue_limit=5, queue_depth=lambda: 0).drift
    first, second = (
        ComparedModel("model", version, {"pixels": distribution(edge, edge + 1, edge + 2)})
        for version, edge in (("1", 10), ("2", 1000))
    )
    for model in (first, second, first, second):
        drift.note({"pixels": 500}, model)
    (_, outside, _) = drift.collect()
    found = {one.labels["version"]: one.value for one in outside.samples}
    assert found == {"1": 0, "2": 2}  # larger ones are inside
