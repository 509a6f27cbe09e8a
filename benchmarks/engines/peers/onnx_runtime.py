"""ONNX Runtime's CPU engine, in FP32 and in static INT8 (its own QDQ quantizer)."""

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
from benchmarks.engines.peers.peer import ComposedPeer, PeerJob


class OnnxRuntimePeer(ComposedPeer):
    """Encoder and decoder as sessions of ONNX Runtime; the decoder stays FP32."""

    def __init__(self, job: PeerJob, kind: str) -> None:
        """Open the graphs; ``kind`` is ``fp32`` or ``int8_onnxruntime``."""
        super().__init__(job.config(), job.at_once)
        torch.set_num_threads(1)  # for the geometry; its threads would compete with the sessions'
        self._encoder = _session(encoder_path(job, kind), job.threads)
        self._decoder = _session(decoder_path(job), job.threads)

    def encode(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""
        return torch.from_numpy(self._encoder.run(None, {"images": normalized.numpy()})[0])

    def decode(self, embedding: Tensor, box: Tensor) -> Tensor:
        """Decode a box (1, 4) on an embedding (1, D, G, G) to logits (1, T, 4G, 4G)."""
        inputs = {"embedding": embedding.numpy(), "box": box.numpy()}
        return torch.from_numpy(self._decoder.run(None, inputs)[0])


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Encoder and decoder have separate pools. Spinning within a call makes it 1.7 times as fast
    # here; a pool that still spins after its call takes the cores of the next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class _Calibration:
    """One batch of X-rays for ONNX Runtime's quantizer."""

    def __init__(self, job: PeerJob) -> None:
        self._batches = [{"images": calibration_input(job)}]

    def get_next(self) -> dict[str, Any] | None:
        return self._batches.pop() if self._batches else None


def onnxruntime_fp32(job: PeerJob) -> OnnxRuntimePeer:
    """Return the FP32 row."""
    return OnnxRuntimePeer(job, "fp32")


def onnxruntime_int8(job: PeerJob) -> OnnxRuntimePeer:
    """Return the INT8 row."""
    return OnnxRuntimePeer(job, "int8_onnxruntime")


def prepare_fp32(job: PeerJob) -> None:
    """Write the FP32 graphs.

    Raises:
        PeerUnavailableError: A package is not installed.
    """
    require("onnxruntime")
    export_graphs(job)


def prepare_int8(job: PeerJob) -> None:
    """Quantize the encoder statically: products and convolutions, weights per channel.

    Raises:
        PeerUnavailableError: A package is not installed.
    """
    prepare_fp32(job)
    path = encoder_path(job, "int8_onnxruntime")
    if path.exists():
        return
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        encoder_path(job, "fp32"), path, _Calibration(job), quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"], per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )  # fmt: skip
