"""The rows of the benchmark, in the order of loading and measuring.

Rows with goals come first: when memory runs out, later rows are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.engines.peers import onnx_runtime, openvino_runtime, torch_peers
from benchmarks.engines.peers.peer import Peer, PeerJob

EAGER = "segment-anything FP32"
OWN_INT8 = "ours INT8"


@dataclass(frozen=True)
class KnownPeer:
    """One row.

    Attributes:
        build: Function that loads it, in its own process.
        prepare: Function that makes its files, in another process; None without files.
        fp32_peer: Whether it counts as an FP32 peer.
    """

    build: Callable[[PeerJob], Peer]
    prepare: Callable[[PeerJob], None] | None = None
    fp32_peer: bool = False


PEERS: Mapping[str, KnownPeer] = {
    EAGER: KnownPeer(torch_peers.LibraryPeer, fp32_peer=True),
    "ONNX Runtime FP32": KnownPeer(
        onnx_runtime.onnxruntime_fp32, onnx_runtime.prepare_fp32, fp32_peer=True
    ),
    "OpenVINO FP32": KnownPeer(
        openvino_runtime.openvino_fp32, openvino_runtime.prepare_float, fp32_peer=True
    ),
    "torch BF16": KnownPeer(torch_peers.Bfloat16Peer),
    "ours FP32": KnownPeer(torch_peers.own_fp32),
    OWN_INT8: KnownPeer(torch_peers.own_int8),
    "OpenVINO BF16": KnownPeer(openvino_runtime.openvino_bf16, openvino_runtime.prepare_float),
    "OpenVINO INT8": KnownPeer(openvino_runtime.openvino_int8, openvino_runtime.prepare_int8),
    "ONNX Runtime INT8": KnownPeer(onnx_runtime.onnxruntime_int8, onnx_runtime.prepare_int8),
}
