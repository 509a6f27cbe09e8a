"""Which engine executes a model: OpenVINO on a CPU, fused kernels on a GPU, else layer by layer.

A fast engine is compiled and compared with the definition before it is used. OpenVINO or Triton may
be missing, the processor too old, or a result different. Then the model is executed layer by layer
with integer products from oneDNN or cuBLAS, and the engine gives the reason.
"""

from __future__ import annotations

import importlib.util
import os
import platform

import torch

from model_store.engine.fused_engine import FusedEngine, fuse_linear_layers
from model_store.engine.module_engine import ModuleEngine, layer_by_layer
from model_store.engine.protocol import Engine
from model_store.int8_layers import Int8Matrix
from model_store.no_telemetry import forbid_telemetry
from model_store.sam import PromptableSam

OLDEST_CAPABILITY = (8, 0)
"""Oldest CUDA compute capability whose tensor cores multiply int8 and float16 as needed."""

OPENVINO_CAPABILITIES = ("AVX2", "AVX512")
"""Instruction sets, in PyTorch's words, with which OpenVINO was measured to be faster."""


def choose_engine(model: PromptableSam, input_size: int) -> Engine:
    """Return the fastest engine that computes the model rightly on the device it is on."""
    device = model.pixel_mean.device
    integers = any(isinstance(module, Int8Matrix) for module in model.modules())
    if device.type == "cuda":
        return engine_on_gpu(model, input_size, integers)
    return engine_on_cpu(model, input_size, integers)


def engine_on_gpu(model: PromptableSam, input_size: int, integers: bool) -> Engine:
    """Return the engine of a model on a GPU; a float model runs layer by layer there."""
    if not integers:
        return ModuleEngine(model)
    # Read when cuBLAS is first used: with a fixed workspace its products are the same each time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for module in model.modules():
        if isinstance(module, Int8Matrix):
            module.use_backend("cuda")
    device = model.pixel_mean.device
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


def engine_on_cpu(model: PromptableSam, input_size: int, integers: bool) -> Engine:
    """Return the engine of a model on a CPU."""
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
