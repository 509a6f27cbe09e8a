"""Replicas by queue length: another one comes while requests wait, and goes when they do not."""

from __future__ import annotations

import time

from tests.service.ray_serve.test_replicas import Cluster, cluster, load_on, right_masks

__all__ = ["cluster", "right_masks"]  # fixtures


def test_another_replica_comes_while_requests_wait_and_goes_when_they_are_answered(
    cluster: Cluster, right_masks: dict[tuple[str, int], str]
) -> None:
    scaling = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2}
    soon = {"upscale_delay_s": 1, "downscale_delay_s": 3, "look_back_period_s": 2}
    cluster.deploy({**scaling, **soon, "metrics_interval_s": 0.5})
    await_replicas(cluster, 1)
    with load_on(cluster, callers=8) as load:
        await_replicas(cluster, 2)
        time.sleep(3)
    await_replicas(cluster, 1)
    assert load.unanswered == []
    assert set(load.statuses) <= {200, 429, 503}, load.statuses
    assert {key: {right_masks[key]} for key in load.masks} == load.masks


def await_replicas(cluster: Cluster, count: int) -> None:
    end = time.monotonic() + 90
    while (found := len(cluster.replicas())) != count:
        assert time.monotonic() < end, f"{found} replicas and not {count}"
        time.sleep(0.2)
