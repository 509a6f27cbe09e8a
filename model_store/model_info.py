"""Facts about a loaded model, for code that must not import NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from model_store.manifest import Manifest


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model, and where it runs.

    Attributes:
        sha256: Hash of its weights.
        precision: ``int8`` or ``fp32``.
        device: ``cpu`` or ``cuda``.
        input_size: Side of its input, in pixels.
        manifest: Everything else about the stored model.
        engine: What executes it: ``openvino`` (CPUs), ``fused`` (kernels for GPUs) or ``modules``
            (layer by layer).
        fallback_reason: Why it runs layer by layer although the device has a faster engine, in a
            sentence; None for the faster engine.
    """

    name: str
    version: str
    sha256: str
    precision: str
    device: str
    input_size: int
    manifest: Manifest
    engine: str = "modules"
    fallback_reason: str | None = None

    @cached_property  # read for every answer, and it searches 88 layers
    def weight_bits(self) -> int:
        """Bits of a stored weight; products are always those of 8-bit integers."""
        return self.manifest.quantization.weight_bits
