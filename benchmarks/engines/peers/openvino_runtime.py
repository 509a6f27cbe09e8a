"""OpenVINO's CPU engine in FP32, in BF16 where available, and in INT8 (quantized by NNCF)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.engines.peers.exported_graphs import (
    calibration_input,
    decoder_path,
    encoder_path,
    export_graphs,
    require,
)
from benchmarks.engines.peers.peer import ComposedPeer, PeerJob, PeerUnavailableError


class OpenVinoPeer(ComposedPeer):
    """Encoder and decoder compiled by OpenVINO for one request at a time."""

    def __init__(self, job: PeerJob, path: Path, precision: str) -> None:
        """Compile ``path`` with arithmetic in ``precision`` (``f32`` or ``bf16``)."""
        super().__init__(job.config(), job.at_once)
        import openvino

        core = openvino.Core()
        known = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in known:
            raise PeerUnavailableError("OpenVINO has no BF16 on this processor")
        wanted = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": job.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._encoder: Any = core.compile_model(path, "CPU", wanted)
        self._decoder: Any = core.compile_model(decoder_path(job), "CPU", wanted)

    def encode(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""
        return torch.from_numpy(self._encoder(normalized.numpy())[0])

    def decode(self, embedding: Tensor, box: Tensor) -> Tensor:
        """Decode a box (1, 4) on an embedding (1, D, G, G) to logits (1, T, 4G, 4G)."""
        return torch.from_numpy(self._decoder([embedding.numpy(), box.numpy()])[0])


def openvino_fp32(job: PeerJob) -> OpenVinoPeer:
    """Return the FP32 row."""
    return OpenVinoPeer(job, encoder_path(job, "fp32"), "f32")


def openvino_bf16(job: PeerJob) -> OpenVinoPeer:
    """Return the BF16 row, OpenVINO's own choice on processors that multiply BF16."""
    return OpenVinoPeer(job, encoder_path(job, "fp32"), "bf16")


def openvino_int8(job: PeerJob) -> OpenVinoPeer:
    """Return the INT8 row; its float parts are FP32."""
    return OpenVinoPeer(job, _int8_path(job), "f32")


def prepare_float(job: PeerJob) -> None:
    """Write the FP32 graphs.

    Raises:
        PeerUnavailableError: A package is not installed.
    """
    require("openvino")
    export_graphs(job)


def prepare_int8(job: PeerJob) -> None:
    """Quantize the encoder with NNCF's preset for transformers.

    Raises:
        PeerUnavailableError: A package is not installed.
    """
    require("nncf")
    prepare_float(job)
    path = _int8_path(job)
    if path.exists():
        return
    import nncf
    import openvino

    model = openvino.Core().read_model(encoder_path(job, "fp32"))
    quantized = nncf.quantize(
        model, nncf.Dataset([calibration_input(job)]), model_type=nncf.ModelType.TRANSFORMER,
        subset_size=1,
    )  # fmt: skip
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _int8_path(job: PeerJob) -> Path:
    return encoder_path(job, "int8_openvino").with_suffix(".xml")
