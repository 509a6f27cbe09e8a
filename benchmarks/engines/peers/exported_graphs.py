"""The float model as ONNX graphs, and their integer twins; what other engines start from.

Every graph is made in a process of its own: exporting takes more memory than any row. The encoder
has a fixed batch, which is what both engines run fastest.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.engines.peers.peer import PeerJob, PeerUnavailableError, normalized_inputs
from model_store.artifact import load_model
from model_store.sam import PromptableSam

BENCH_EXTRA = "pip install '.[bench]'"


def require(*packages: str) -> None:
    """Check that packages of the ``bench`` extra are there.

    Raises:
        PeerUnavailableError: One is not; the message names the command that adds it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise PeerUnavailableError(f"{', '.join(missing)} not installed: {BENCH_EXTRA}")


class BoxDecoder(nn.Module):
    """Prompt encoder and mask decoder as one graph with two inputs."""

    def __init__(self, model: PromptableSam) -> None:
        """Share the parts of ``model``."""
        super().__init__()
        self.model = model

    def forward(self, embedding: Tensor, box: Tensor) -> Tensor:
        """Map an embedding (1, D, G, G) and a box (1, 4) to logits (1, T, 4G, 4G)."""
        first = torch.zeros(1, dtype=torch.int64)
        return self.model.decode_masks(embedding, box, first)[0]


def encoder_path(job: PeerJob, kind: str) -> Path:
    """Return where the encoder's graph lies; ``kind`` is ``fp32`` or an engine's integers."""
    return job.exported / f"encoder_{job.at_once}_{kind}.onnx"


def decoder_path(job: PeerJob) -> Path:
    """Return where the decoder's graph lies."""
    return job.exported / "decoder_fp32.onnx"


def export_graphs(job: PeerJob) -> None:
    """Write both FP32 graphs unless they are there.

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
    _export(BoxDecoder(model), (embedding, box), decoder_path(job), ["embedding", "box"])
    _export(model.image_encoder, (pixels,), encoder_path(job, "fp32"), ["images"])


def _export(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        warnings.catch_warnings(),
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),  # the exporter tells its progress
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), inputs, path, input_names=names, output_names=["output"], dynamo=True
        )


def calibration_input(job: PeerJob) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return normalised X-rays (at_once, C, S, S) on which integer graphs find their scales."""
    images = list(np.load(job.images)[: job.at_once])
    batch: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = normalized_inputs(
        images, job.config()
    ).numpy()
    return batch
