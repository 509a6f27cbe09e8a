"""The names of the pipeline's stages."""

STAGES = (
    "decode",
    "preprocess",
    "queue",
    "encode_image",
    "decode_mask",
    "postprocess",
    "render",
)
"""The pipeline verbs, in order; also the keys of `latency_ms` and labels of a metric."""
