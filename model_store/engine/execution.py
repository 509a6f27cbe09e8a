"""Who executes a model: OpenVINO on a CPU, fused kernels on a GPU, or PyTorch layer by layer.

What is fast is compiled and compared with its definition before it is trusted. When OpenVINO or
Triton is missing, the processor is too old, or something fails or computes something else, the
model is executed layer by layer with integer products from oneDNN or cuBLAS, and the engine says
why.
"""

from __future__ import annotations

import importlib.util
import platform
import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from model_store.engine.widened_attention import widen_attention
from model_store.int8_layers import Int8Linear, Int8Matrix
from model_store.no_telemetry import forbid_telemetry
from model_store.quantizable import replace_module
from model_store.sam import PromptableSam

OLDEST_CAPABILITY = (8, 0)
"""Oldest CUDA compute capability whose tensor cores multiply int8 and float16 as needed."""

OPENVINO_CAPABILITIES = ("AVX2", "AVX512")
"""Instruction sets, in PyTorch's words, with which OpenVINO was measured to be faster."""

BATCH_SIZES = (1, 2, 4, 8)
"""Numbers of images for which the encoder is recorded; more are cut into these."""


class Engine(Protocol):
    """Executes one model; safe to call from several threads.

    Attributes:
        name: ``modules``, ``openvino`` or ``fused``.
        fallback_reason: Why the fast engine of this device is not used, in a sentence; None when
            nothing fell back.
        batches_alike: Whether images may share a call: it is faster, and an image's result is the
            same to the bit in a batch of any size.
    """

    name: str
    batches_alike: bool
    fallback_reason: str | None

    def encode_image(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""

    def decode_box(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Decode a box (1, 4) on an embedding (1, D, G, G).

        Returns:
            Mask logits (1, T, 4G, 4G) and predicted IoU (1, T).
        """


class ModuleEngine:
    """The model's own modules, one after the other."""

    name = "modules"
    batches_alike = False

    def __init__(self, model: PromptableSam, fallback_reason: str | None = None) -> None:
        """Execute ``model`` as it is; see `Engine` for ``fallback_reason``."""
        self._model = model
        self.fallback_reason = fallback_reason

    def encode_image(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""
        return self._model.encode_image(normalized)

    def decode_box(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one box (1, 4) on one embedding (1, D, G, G)."""
        return self._model.decode_masks(embedding, box, torch.zeros(1, dtype=torch.int64))


class FusedEngine:
    """The encoder on fused kernels, and everything recorded as CUDA graphs."""

    name = "fused"
    batches_alike = True
    fallback_reason: str | None = None

    def __init__(self, model: PromptableSam, input_shape: tuple[int, int]) -> None:
        """Record the encoder for each of `BATCH_SIZES` and the decoder for one box.

        Args:
            model: A model on a GPU whose integer layers `fuse_linear_layers` has replaced.
            input_shape: Channels and side of the model's input.
        """
        from model_store.engine.captured_call import CapturedCall
        from model_store.engine.fused_encoder import FusedEncoder

        device = model.pixel_mean.device
        self._lock = threading.Lock()
        self._encoder = FusedEncoder(model.image_encoder)
        channels, side = input_shape
        pool = torch.cuda.graph_pool_handle()
        with torch.inference_mode(), _exact_float_products():
            self._encode = {}
            for count in BATCH_SIZES:
                example = torch.zeros(count, channels, side, side, device=device)
                self._encode[count] = CapturedCall(
                    lambda images: (self._encoder.forward(images),), example, pool=pool
                )
            (embedding,) = self._encode[1].replay(torch.zeros(1, channels, side, side))
            first = torch.zeros(1, dtype=torch.int64, device=device)
            self._decode = CapturedCall(
                lambda image, box: model.decode_masks(image, box, first),
                embedding, torch.tensor([[0.0, 0.0, side, side]], device=device), pool=pool,
            )  # fmt: skip

    def encode_image(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""
        with self._lock:
            parts, first = [], 0
            for count in cut_into_batches(normalized.shape[0]):
                (embeddings,) = self._encode[count].replay(normalized[first : first + count])
                parts.append(embeddings.clone())
                first += count
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def decode_box(self, embedding: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one box (1, 4) on one embedding (1, D, G, G)."""
        with self._lock:
            logits, iou = self._decode.replay(embedding, box)
            return logits.clone(), iou.clone()


def cut_into_batches(count: int) -> list[int]:
    """Cut a number of images into recorded batch sizes, large ones first."""
    sizes: list[int] = []
    for size in sorted(BATCH_SIZES, reverse=True):
        sizes += [size] * (count // size)
        count %= size
    return sizes


def choose_engine(model: PromptableSam, input_size: int) -> Engine:
    """Return the fastest engine that computes the model rightly on the device it is on."""
    device = model.pixel_mean.device
    layers = [module for module in model.modules() if isinstance(module, Int8Matrix)]
    if device_type_of(device) != "cuda":
        return _engine_on_cpu(model, input_size, bool(layers))
    for layer in layers:
        layer.use_backend("cuda")
    if not layers:
        return ModuleEngine(model)
    reason = fallback_reason_of(device)
    if reason is None:
        channels = model.pixel_mean.shape[1]
        restore = fuse_linear_layers(model.mask_decoder)
        try:
            return FusedEngine(model, (channels, input_size))
        except Exception as error:  # whatever a compiler or driver throws
            restore()
            reason = f"the fused engine could not be built: {type(error).__name__}: {error}"
    return ModuleEngine(model, reason)


def layer_by_layer(model: PromptableSam) -> ModuleEngine:
    """Execute a model by PyTorch's modules on a CPU, in the fastest way that they have there."""
    widen_attention(model.image_encoder)
    for module in model.modules():
        if isinstance(module, Int8Matrix):
            module.use_backend("cpu")
    return ModuleEngine(model)


def _engine_on_cpu(model: PromptableSam, input_size: int, integers: bool) -> Engine:
    modules = layer_by_layer(model)  # also for whoever calls the model itself
    if not integers or not openvino_is_faster():
        return modules
    if importlib.util.find_spec("openvino") is None:
        return ModuleEngine(model, "OpenVINO is not installed")
    forbid_telemetry()
    try:
        from model_store.engine.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(model, input_size)
    except Exception as error:  # whatever a compiler throws
        sentence = " ".join(str(error).split())[:300]  # OpenVINO's have many lines
        reason = f"OpenVINO could not be used: {type(error).__name__}: {sentence}"
    return ModuleEngine(model, reason)


def openvino_is_faster() -> bool:
    """Return whether OpenVINO executes integers faster than PyTorch on this processor."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return x86 and torch.backends.cpu.get_cpu_capability() in OPENVINO_CAPABILITIES


def device_type_of(device: torch.device) -> str:
    """Return ``cpu`` or ``cuda``."""
    return device.type


def fallback_reason_of(device: torch.device) -> str | None:
    """Return why fused kernels cannot be trusted on a GPU, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        wanted = ".".join(map(str, OLDEST_CAPABILITY))
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, not {wanted}"
    try:
        from model_store.engine.kernel_checks import check_kernels

        failed = [check for check in check_kernels(device) if not check.passed]
    except Exception as error:  # an import that fails is a missing Triton in another form
        return f"the kernels could not be loaded: {type(error).__name__}: {error}"
    if failed:
        return f"{len(failed)} kernel checks failed; {failed[0].name}: {failed[0].detail}"
    return None


class FusedLinear(nn.Module):
    """``Int8Linear`` on the kernels; the conversion is one kernel and the product another."""

    def __init__(self, layer: Int8Linear) -> None:
        """Share the tensors of ``layer``."""
        super().__init__()
        from model_store.engine.fused_encoder import FusedLayer

        self._fused = FusedLayer(layer)

    def forward(self, values: Tensor) -> Tensor:
        """Map float32 (..., K) to float32 (..., N)."""
        flat = values.reshape(-1, values.shape[-1])
        return self._fused.apply(self._fused.enter(flat)).view(*values.shape[:-1], -1)


def fuse_linear_layers(root: nn.Module) -> Callable[[], None]:
    """Put `FusedLinear` in the place of every ``Int8Linear``; the returned call undoes it."""
    replaced = {n: m for n, m in root.named_modules() if isinstance(m, Int8Linear)}
    for name, layer in replaced.items():
        replace_module(root, name, FusedLinear(layer))

    def restore() -> None:
        for name, layer in replaced.items():
            replace_module(root, name, layer)

    return restore


class _exact_float_products:  # noqa: N801 - reads as a statement
    """Within the block no float32 product is shortened to TF32, convolutions included."""

    def __enter__(self) -> None:
        self._matmul = torch.backends.cuda.matmul.allow_tf32
        self._convolution = torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *error: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self._matmul
        torch.backends.cudnn.allow_tf32 = self._convolution
