"""Which model answers. A module of its own, so that code that only names a model needs no NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from model_store.manifest import Manifest


@dataclass(frozen=True)
class ModelInfo:
    """Which model answers, and where it runs.

    Attributes:
        sha256: Hash of its weights.
        precision: ``int8`` or ``fp32``.
        device: ``cpu`` or ``cuda``.
        input_size: Side of its input, in pixels.
        manifest: Everything else that the stored model says about itself.
        engine: Who executes it: ``openvino`` (CPUs), ``fused`` (kernels for GPUs) or ``modules``
            (layer by layer).
        fallback_reason: Why it is executed layer by layer although something faster fits the
            device, in a sentence; None when nothing fell back.
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

    @cached_property  # read for every answer, and 88 layers are looked through
    def weight_bits(self) -> int:
        """Bits of a stored weight; whatever they are, products are those of 8-bit integers."""
        return self.manifest.quantization.weight_bits
