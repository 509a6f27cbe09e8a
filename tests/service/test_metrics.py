"""Metrics: exactly the names and labels of the contract, visible from the first scrape."""

from __future__ import annotations

import itertools

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from model_store.stages import STAGES
from service.metrics import DURATION_BUCKETS_S, Metrics

NAMES = {
    "lungseg_requests",
    "lungseg_request_duration_seconds",
    "lungseg_stage_duration_seconds",
    "lungseg_batch_size",
    "lungseg_queue_depth",
    "lungseg_queue_limit",
    "lungseg_queue_bytes",
    "lungseg_compute_restarts",
    "lungseg_devices",
    "lungseg_devices_ready",
    "lungseg_device_fallback",
    "lungseg_image_workers_ended",
    "lungseg_self_test_failures",
    "lungseg_compute_resident_memory_bytes",
    "lungseg_inflight",
    "lungseg_rejected",
    "lungseg_cancelled",
    "lungseg_input_pixels",
    "lungseg_mask_area_ratio",
    "lungseg_warnings",
    "lungseg_ready",
    "lungseg_model_info",
    "lungseg_model_changes",
    "lungseg_model_reloads",
    "lungseg_model_ready",
    "lungseg_shadow_area_ratio",
    "lungseg_shadow_dice",
    "lungseg_shadow_faults",
    "lungseg_shadow_info",
    "lungseg_shadow_model_changes",
    "lungseg_shadow_models",
    "lungseg_shadow_models_ready",
    "lungseg_shadow_requests",
    "lungseg_shadow_resident_memory_bytes",
    "lungseg_model_requests",
    "lungseg_model_request_duration_seconds",
    "lungseg_model_resident_memory_bytes",
    "lungseg_model_warnings",
    "lungseg_log_lines_lost",
    "lungseg_machine_changes",
    "lungseg_drift_below",
    "lungseg_drift_compared",
    "lungseg_drift_outside",
    "lungseg_audit_entries",
    "lungseg_audit_failing",
    "lungseg_audit_head",
    "lungseg_audit_lost",
    "lungseg_connections",
    "lungseg_fronts",
    "lungseg_fronts_lost",
    "lungseg_connections_closed",
    "lungseg_connections_limit",
    "lungseg_unparsed_requests",
    "lungseg_key_attempts_failed",
    "lungseg_key_file_problems",
    "lungseg_keys_expiring_soon",
    "lungseg_keys_valid",
}


def families(metrics: Metrics) -> dict[str, object]:
    """Parses the exposition."""
    text = generate_latest(metrics.registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_every_name_of_the_contract_is_there() -> None:
    """Under our prefix nothing else but the `_created` series of the library."""
    found = families(Metrics(queue_limit=5, queue_depth=lambda: 3))
    ours = {name for name in found if name.startswith("lungseg_") and "_created" not in name}
    assert ours == NAMES
    assert any(name.startswith("process_") for name in found)


def test_gauges_read_the_present() -> None:
    """Depth and readiness at the time of the scrape."""
    depth = [3]
    ready = [False]
    metrics = Metrics(queue_limit=5, queue_depth=lambda: depth[0])
    metrics.follow_readiness(lambda: ready[0])
    value = metrics.registry.get_sample_value
    assert (value("lungseg_queue_depth"), value("lungseg_ready")) == (3, 0)
    depth[0], ready[0] = 1, True
    assert (value("lungseg_queue_depth"), value("lungseg_ready")) == (1, 1)
    assert value("lungseg_queue_limit") == 5


def test_stages_are_the_pipeline_verbs() -> None:
    """Each is visible before the first request."""
    metrics = Metrics(queue_limit=5, queue_depth=lambda: 0)
    name = "lungseg_stage_duration_seconds_count"
    counts = [metrics.registry.get_sample_value(name, {"stage": stage}) for stage in STAGES]
    assert counts == [0.0] * 7


def test_buckets_are_dense_where_answers_are_expected() -> None:
    """5 ms to 10 s, no step above 10 ms between 10 and 150 ms."""
    assert (DURATION_BUCKETS_S[0], DURATION_BUCKETS_S[-1]) == (0.005, 10.0)
    dense = [edge for edge in DURATION_BUCKETS_S if 0.010 <= edge <= 0.150]
    steps = [after - before for before, after in itertools.pairwise(dense)]
    assert max(steps) <= 0.0101
    assert list(DURATION_BUCKETS_S) == sorted(set(DURATION_BUCKETS_S))


def test_two_processes_share_nothing() -> None:
    """Each app has its own registry."""
    first = Metrics(queue_limit=5, queue_depth=lambda: 0)
    second = Metrics(queue_limit=5, queue_depth=lambda: 0)
    first.cancelled.inc()
    assert second.registry.get_sample_value("lungseg_cancelled_total") == 0
