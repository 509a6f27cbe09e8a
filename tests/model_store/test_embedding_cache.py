"""Kept embeddings: bounded in bytes, oldest out first, and masks that do not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.embedding_cache import EmbeddingCache, content_key
from model_store.geometry import InputGeometry
from model_store.predictor import PredictionRequest, Predictor


def embedding(value: float, count: int = 25) -> torch.Tensor:
    return torch.full((count,), value, dtype=torch.float32)  # 4 bytes each


def test_the_bound_holds_and_the_least_recently_used_goes_first() -> None:
    cache = EmbeddingCache(250)
    cache.keep(b"a", embedding(1))
    cache.keep(b"b", embedding(2))
    assert cache.find(b"a") is not None
    cache.keep(b"c", embedding(3))
    assert cache.find(b"b") is None
    assert cache.find(b"a") is not None and cache.find(b"c") is not None
    assert cache.size_bytes == 200
    cache.keep(b"too large", embedding(4, count=100))
    assert cache.find(b"too large") is None and cache.size_bytes == 200
    cache.clear()
    assert cache.size_bytes == 0 and cache.find(b"a") is None


def test_the_key_is_what_the_encoder_sees() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    placed = InputGeometry(40, 30, 4)
    key = content_key(pixels, placed)
    assert content_key(np.asfortranarray(pixels), placed) == key
    assert content_key(pixels, InputGeometry(80, 60, 4)) == key  # the same input, another X-ray
    assert content_key(pixels + 1, placed) != key
    for other in (InputGeometry(40, 40, 4), InputGeometry(30, 40, 4)):  # other padding
        assert content_key(pixels, other) != key


def test_a_second_prompt_skips_the_encoder_and_gets_the_same_mask(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EmbeddingCache(2**30)
    caching = Predictor.load(tiny_artifact, "cpu", cache)
    plain = Predictor.load(tiny_artifact, "cpu")
    image = np.random.default_rng(1).integers(0, 256, (50, 60), dtype=np.uint8)
    encoded = []
    encode = caching.engine.encode_image

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(1)
        return encode(pixels)

    monkeypatch.setattr(caching.engine, "encode_image", counted)
    for box in ((0.0, 0.0, 30.0, 50.0), (30.0, 0.0, 60.0, 50.0)):
        request = PredictionRequest(image, (box,))
        found, expected = caching.predict(request), plain.predict(request)
        assert np.array_equal(found.masks[0].mask, expected.masks[0].mask)
        assert found.masks[0].score == expected.masks[0].score
    assert len(encoded) == 1
    other = PredictionRequest(image + 1)
    assert np.array_equal(caching.predict(other).masks[0].mask, plain.predict(other).masks[0].mask)
    assert len(encoded) == 2
