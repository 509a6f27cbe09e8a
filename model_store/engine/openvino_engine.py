"""A stored model executed on the CPU by OpenVINO, in the integers that are stored.

Two graphs, encoder and decoder, are built from the model's tensors and compiled when it is loaded.
Both are for one image and one box, so no result depends on other requests. Everything that is not
an integer product is set to float32: by default OpenVINO uses BF16 on processors that have it.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import openvino
import torch
from torch import Tensor

from model_store.engine.openvino_checks import (
    check_products,
    fastest_linear,
    require_integer_products,
)
from model_store.engine.openvino_decoder import decoder_graph
from model_store.engine.openvino_encoder import encoder_graph
from model_store.engine.openvino_layers import LinearProduct, linear
from model_store.sam import PromptableSam


class OpenVinoEngine:
    """Encoder and decoder, each compiled once and called once at a time."""

    name = "openvino"
    batches_alike = False
    fallback_reason: str | None = None

    def __init__(
        self, model: PromptableSam, input_size: int, product: LinearProduct | None = None
    ) -> None:
        """Check OpenVINO's products, then compile ``model`` for as many threads as PyTorch has.

        Args:
            model: A model on the CPU. Its tensors are shared and must not change any more.
            input_size: Side of the model's input.
            product: How the encoder's linear layers are written; None chooses the fastest way on
                this processor.

        Raises:
            InexactError: OpenVINO differs from the definition on this processor.
        """
        core, config = shared_core(), compile_config(torch.get_num_threads())
        product = product or fastest_linear(core, config)
        check_products(core, config, products={linear, product})
        self._encoder = _CompiledGraph(core, encoder_graph(model, input_size, product), config)
        self._decoder = _CompiledGraph(core, decoder_graph(model, input_size), config)

    def encode_image(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) one by one into embeddings (B, D, G, G)."""
        parts = [self._encoder.run(image)[0] for image in torch.split(normalized, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def decode_box(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one box (1, 4) on one embedding (1, D, G, G)."""
        logits, iou = self._decoder.run(embedding, box)
        return logits, iou

    def record_further(self) -> bool:
        """Do nothing: everything is compiled when the engine is made."""
        return False


class _CompiledGraph:
    """A compiled graph with one buffer for inputs and outputs."""

    def __init__(self, core: openvino.Core, graph: openvino.Model, config: dict[str, Any]) -> None:
        compiled = core.compile_model(graph, "CPU", config)
        require_integer_products(graph, compiled, graph.get_friendly_name())
        self._request = compiled.create_infer_request()
        self._outputs = len(compiled.outputs)
        self._lock = threading.Lock()

    def run(self, *inputs: Tensor) -> list[Tensor]:
        """Compute the outputs of one set of inputs; they are copies."""
        arrays = [values.contiguous().numpy() for values in inputs]
        with self._lock:
            found = self._request.infer(arrays, share_inputs=True, share_outputs=True)
            return [torch.from_numpy(found[index].copy()) for index in range(self._outputs)]


@functools.cache
def shared_core() -> openvino.Core:
    """Return the one OpenVINO of this process, which lives as long as the process does.

    OpenVINO's CPU plugin sets a new stack for signal handlers in the thread that loads it. It frees
    that stack with the last model, in any thread. The next signal in the first thread (Ctrl-C,
    SIGTERM, the end of a worker process) then crashes the process with a segmentation fault. A
    plugin that is never unloaded does not free the stack.
    """
    return openvino.Core()


def compile_config(threads: int) -> dict[str, Any]:
    """Return OpenVINO's settings for answering one call at a time with so many threads."""
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Threads pinned to a core would wait for other work on that core.
        "ENABLE_CPU_PINNING": False,
    }
