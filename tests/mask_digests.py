"""Digests of the default model's masks, by engine and processor kind.

    UPDATE_MASK_DIGESTS=1 python -m pytest -s tests/test_mask_digests.py

prints what differs from the digests stored for this engine and processor, and stores the new ones.
A commit that moves a mask runs it and lists what it printed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from model_store.artifact import load_model
from model_store.conventions import CONVENTIONS
from model_store.embedding_cache import EmbeddingCache
from model_store.engine.module_engine import layer_by_layer
from model_store.engine.protocol import Engine
from model_store.model_index import default_model_folder
from model_store.pictures.picture_reading import read_picture
from model_store.predictor import PredictionRequest, Predictor

DIGESTS = Path(__file__).with_suffix(".json")
MOST_PIXELS = 40_000_000
ENGINES = ("as_chosen", "modules")


def processor_kind() -> str:
    """Name the instruction sets that decide how products and float sums are computed here."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    if limit:
        return f"limited_to_{limit.lower()}"
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return "unknown"
    if "avx512f" not in flags:
        return "avx2_vnni" if "avx_vnni" in flags else "avx2"
    kind = "avx512_vnni" if "avx512_vnni" in flags else "avx512"
    return "amx_int8" if "amx_int8" in flags else kind


def xray_files(root: Path) -> list[Path]:
    """Return the samples and the validation split, in the order of their names."""
    return [*sorted((root / "samples").iterdir()), *sorted((root / "cxr/val/images").iterdir())]


def load_predictor(engine: str) -> Predictor:
    """Load the default model on the CPU, by the engine chosen there or layer by layer."""
    model, manifest = load_model(default_model_folder())
    chosen: Engine | None = layer_by_layer(model) if engine == "modules" else None
    cache = EmbeddingCache(64_000_000)  # both conventions share an encoding
    return Predictor(model, manifest, torch.device("cpu"), cache, chosen)


def digests(predictor: Predictor, files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield `NAME CONVENTION` and the digest and area of its mask, with the whole image as box."""
    for file in files:
        pixels = read_picture(file.read_bytes(), max_pixels=MOST_PIXELS).pixels
        for convention in CONVENTIONS:
            answer = predictor.predict(PredictionRequest(pixels, (), convention))
            mask = np.ascontiguousarray(answer.masks[0].mask)
            shape = np.array(mask.shape, np.int64).tobytes()
            digest = hashlib.sha256(shape + np.packbits(mask).tobytes()).hexdigest()[:16]
            yield f"{file.stem} {convention}", f"{digest} {int(mask.sum())}"


def measured(root: Path, engine: str) -> tuple[str, dict[str, str]]:
    """Measure the digests of all X-rays by one engine.

    Returns:
        The key under which they stand, ``ENGINE PROCESSOR``, and the digests by name.
    """
    torch.set_num_threads(1)
    predictor = load_predictor(engine)
    key = f"{predictor.info.engine} {processor_kind()}"
    return key, dict(digests(predictor, xray_files(root)))
