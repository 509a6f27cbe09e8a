"""A stored model of a few kilobytes with random weights: real files, real loader, real network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model_store.architecture import SamConfig, build_sam
from model_store.artifact import WEIGHTS_FILE, sha256_of, write_manifest, write_weights
from model_store.conventions import CONVENTIONS, token_of
from model_store.geometry import PREPROCESSING_VERSION
from model_store.manifest import Manifest, Quantization, SelfTest, WeightsFile
from model_store.predictor import PredictionRequest, Predictor
from model_store.quantizable import quantizable_layers

CONFIG = SamConfig(
    variant="vit_t",
    input_size=64,
    embed_dim=32,
    depth=1,
    num_heads=2,
    prompt_dim=32,
    decoder_heads=2,
    decoder_mlp_dim=32,
    iou_head_hidden_dim=16,
)
GOLDEN_BOX = (4.0, 4.0, 60.0, 60.0)


def write_tiny_model(folder: Path) -> Path:
    """Writes a model that passes its own self test; returns the folder."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_sam(CONFIG)
    folder.mkdir(parents=True)
    write_weights(folder / WEIGHTS_FILE, model.state_dict())
    size_bytes = (folder / WEIGHTS_FILE).stat().st_size
    manifest = Manifest(
        name="tiny-test",
        version="1",
        architecture=CONFIG.to_dict(),
        preprocessing_version=PREPROCESSING_VERSION,
        conventions={name: token_of(name) for name in CONVENTIONS},
        quantization=Quantization(
            scheme="none", layers=dict.fromkeys(quantizable_layers(model), "float")
        ),
        weights=WeightsFile(
            sha256=sha256_of(folder / WEIGHTS_FILE),
            size_bytes=size_bytes,
            float_size_bytes=size_bytes,
        ),
        code_version="0",
        intended_use="tests",
    )
    write_manifest(folder, manifest)
    write_manifest(folder, manifest.model_copy(update={"self_test": _golden(folder)}))
    return folder


def _golden(folder: Path) -> SelfTest:
    """Draws the golden mask with the model itself."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    request = PredictionRequest(image, (GOLDEN_BOX,), "lung_field")
    mask = Predictor.load(folder, "cpu").predict(request).masks[0].mask
    files = {}
    for name, pixels in (("golden_image", image), ("golden_mask", mask.astype(np.uint8) * 255)):
        path = folder / f"{name}.png"
        Image.fromarray(pixels).save(path)
        files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return SelfTest(
        image_sha256=files["golden_image"],
        mask_sha256=files["golden_mask"],
        box=GOLDEN_BOX,
        convention="lung_field",
    )
