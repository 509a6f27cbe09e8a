"""The interface of every engine: it encodes images and decodes boxes."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Engine(Protocol):
    """Executes one model; safe to call from several threads.

    Attributes:
        name: ``modules``, ``openvino`` or ``fused``.
        fallback_reason: Why the fast engine of this device is not used, in a sentence; None when
            nothing fell back.
        batches_alike: Whether images may share a call: batches are faster, and an image's result is
            the same to the bit in a batch of any size.
    """

    name: str
    batches_alike: bool
    fallback_reason: str | None

    def encode_image(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""

    def decode_box(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Decode a box (1, 4) on an embedding (1, D, G, G).

        Returns:
            Mask logits (1, T, 4G, 4G) and predicted IoU (1, T).
        """

    def record_further(self) -> bool:
        """Do one more step of the preparation that makes later calls faster.

        Returns:
            Whether there was a step left to do.
        """
