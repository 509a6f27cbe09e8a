"""The names of the pipeline's stages in spans, metrics, latencies and functions."""

from __future__ import annotations

NETWORK_STAGES = ("encode_image", "decode_mask")
"""The stages of the network itself."""

PREDICTION_STAGES = ("preprocess", *NETWORK_STAGES, "postprocess")
"""The stages of one prediction without a service around it, in order."""

STAGES = ("decode", "preprocess", "queue", *NETWORK_STAGES, "postprocess", "render")
"""All stages of a request, in order; also the keys of `latency_ms` and labels of a metric."""
