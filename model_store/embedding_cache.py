"""A cache of image embeddings: another prompt on the same X-ray skips the encoder.

The cache is bounded in bytes and drops the least recently used embedding first. The key is the
content of the input, so a cached embedding is exactly the tensor that the encoder gave for these
pixels, and masks do not change.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model_store.geometry import InputGeometry


class EmbeddingCache:
    """Embeddings by content of the image; drops the least recently used first. Thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        """Make an empty cache.

        Args:
            limit_bytes: most bytes of embeddings kept; larger ones are not kept at all.
        """
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._entries: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes of the embeddings kept now."""
        return self._size_bytes

    def find(self, key: bytes) -> Tensor | None:
        """Return the embedding kept under a key, and keep it longer; None when there is none."""
        with self._lock:
            embedding = self._entries.get(key)
            if embedding is not None:
                self._entries.move_to_end(key)
            return embedding

    def keep(self, key: bytes, embedding: Tensor) -> None:
        """Keep an embedding, and drop others to stay within the bound."""
        size_bytes = embedding.nbytes
        with self._lock:
            if size_bytes > self._limit_bytes or key in self._entries:
                return
            self._entries[key] = embedding
            self._size_bytes += size_bytes
            while self._size_bytes > self._limit_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._size_bytes -= dropped.nbytes

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()
            self._size_bytes = 0


def content_key(pixels: NDArray[np.uint8], geometry: InputGeometry) -> bytes:
    """Return a key of the encoder's input (SHA-256).

    Args:
        pixels: the network's input, (S, S).
        geometry: how the X-ray lies in it; the encoder needs it, because the rest is padding.
    """
    placed = f"{pixels.shape} {geometry.resized_width} {geometry.resized_height} "
    digest = hashlib.sha256(placed.encode())
    digest.update(np.ascontiguousarray(pixels).data.cast("B"))
    return digest.digest()
