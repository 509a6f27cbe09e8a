"""The float model as ONNX graphs, and their integer twins, for other engines.

Every graph is made in a separate process, because exporting takes more memory than any row. The
encoder has a fixed batch, which is fastest on both engines.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

from benchmarks.engines.peers.peer import PeerJob, PeerUnavailableError, normalized_inputs
from model_store.artifact import load_model
from training.graphs import BoxDecoder, export_onnx

BENCH_EXTRA = "pip install '.[bench]'"


def require(*packages: str) -> None:
    """Check that packages of the ``bench`` extra are installed.

    Raises:
        PeerUnavailableError: One is not; the message names the command that adds it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise PeerUnavailableError(f"{', '.join(missing)} not installed: {BENCH_EXTRA}")


def encoder_path(job: PeerJob, kind: str) -> Path:
    """Return the path of the encoder's graph; ``kind`` is ``fp32`` or an engine's integers."""
    return job.exported / f"encoder_{job.at_once}_{kind}.onnx"


def decoder_path(job: PeerJob) -> Path:
    """Return the path of the decoder's graph."""
    return job.exported / "decoder_fp32.onnx"


def export_graphs(job: PeerJob) -> None:
    """Write both FP32 graphs unless they exist.

    Raises:
        PeerUnavailableError: The exporter is not installed.
    """
    if encoder_path(job, "fp32").exists() and decoder_path(job).exists():
        return
    require("onnx", "onnxscript")
    config = job.config()
    model, _ = load_model(job.float_folder)
    side, grid = config.input_size, config.grid_size
    pixels = torch.zeros(job.at_once, config.in_channels, side, side)
    embedding = torch.zeros(1, config.prompt_dim, grid, grid)
    box = torch.tensor([[0.0, 0.0, side, side]])
    names = ["embedding", "box"]
    encoder, decoder = encoder_path(job, "fp32"), decoder_path(job)
    decoder.parent.mkdir(parents=True, exist_ok=True)
    export_onnx(BoxDecoder(model), (embedding, box), decoder, names, ["output", "iou"])
    export_onnx(model.image_encoder, (pixels,), encoder, ["images"], ["output"])


def calibration_input(job: PeerJob) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return normalised X-rays (at_once, C, S, S) for calibrating integer graphs."""
    images = list(np.load(job.images)[: job.at_once])
    batch: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = normalized_inputs(
        images, job.config()
    ).numpy()
    return batch
