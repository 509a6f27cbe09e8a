"""Stored models on disk: ``manifest.json`` and ``weights.safetensors`` in one folder.

Loading is strict. The hash, every name, every dtype and every shape must be what the manifest's
architecture calls for. Anything else is refused with the file and the reason, because a model
that is slightly wrong would give masks that are slightly wrong. Pickle is never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model_store.architecture import SamConfig, build_sam
from model_store.conventions import CONVENTIONS, token_of
from model_store.geometry import PREPROCESSING_VERSION
from model_store.int8_layers import Int8Conv2d, Int8Linear, Int8Matrix
from model_store.integers import SCHEME, WEIGHT_LIMIT
from model_store.manifest import Manifest
from model_store.packed_weights import pack_weights, unpack_weights
from model_store.quality_head import QualityHead, read_quality_head
from model_store.quantizable import quantizable_layers, replace_module
from model_store.sam import PromptableSam
from model_store.structures import STRUCTURE_TOKENS
from model_store.weight_levels import WeightLevels

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
FLOAT_SCHEME = "none"

_LARGEST_MANIFEST_BYTES = 4 * 1024 * 1024


class ArtifactError(ValueError):
    """A stored model is refused; the message names the file and the reason."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and validate ``manifest.json``.

    Raises:
        ArtifactError: Missing, not JSON, not of this schema, or made for other preprocessing.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; a stored model is a folder with a {MANIFEST_FILE}")
    if path.stat().st_size > _LARGEST_MANIFEST_BYTES:
        raise ArtifactError(f"{path} is larger than {_LARGEST_MANIFEST_BYTES} bytes")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ArtifactError(f"{path}: {place}: {first['msg']}") from error
    if manifest.preprocessing_version != PREPROCESSING_VERSION:
        raise ArtifactError(
            f"{path}: preprocessing version {manifest.preprocessing_version} is not the "
            f"{PREPROCESSING_VERSION} of this code"
        )
    known = {name: token_of(name) for name in CONVENTIONS}
    if not manifest.conventions or not manifest.conventions.items() <= known.items():
        raise ArtifactError(
            f"{path}: conventions {manifest.conventions} are not those of this code"
        )
    tokens = int(manifest.architecture.get("num_mask_tokens", len(CONVENTIONS)))
    fitting = {k: v for k, v in STRUCTURE_TOKENS.items() if v < tokens}
    if not manifest.structures.items() <= fitting.items():
        raise ArtifactError(
            f"{path}: structures {manifest.structures} are not those of this code and model"
        )
    if manifest.quantization.scheme not in (SCHEME, FLOAT_SCHEME):
        raise ArtifactError(f"{path}: unknown integer scheme {manifest.quantization.scheme!r}")
    return manifest


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, contiguous and by name."""
    save_file({name: t.detach().cpu().contiguous() for name, t in sorted(tensors.items())}, path)
    path.chmod(0o644)  # safetensors writes 0600: unreadable for another user of a container


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, readable by people."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def load_model(folder: Path) -> tuple[PromptableSam, Manifest]:
    """Load a stored model on the CPU, ready to run, integer layers on the reference backend.

    Raises:
        ArtifactError: The folder is not exactly what its manifest says.
    """
    manifest = read_manifest(folder)
    weights_path = folder / manifest.weights.file
    if Path(manifest.weights.file).name != manifest.weights.file or not weights_path.is_file():
        raise ArtifactError(f"{weights_path} is missing")
    actual = sha256_of(weights_path)
    if actual != manifest.weights.sha256:
        raise ArtifactError(
            f"{weights_path} is damaged or another file: its sha256 is {actual}, "
            f"{MANIFEST_FILE} says {manifest.weights.sha256}"
        )
    model = _empty_model(folder, manifest)
    try:
        tensors = load_file(weights_path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{weights_path} is not safetensors: {error}") from error
    expected = model.state_dict()
    _unpack(weights_path, manifest.quantization.weight_levels, expected, tensors)
    _check_tensors(weights_path, expected, tensors)
    # Integers stay mapped from the file: the backend packs them, and that is the only copy. Floats
    # are used as they are, so they are copied: a file that is overwritten must not change them.
    own = {
        name: tensor.to(expected[name].dtype, copy=tensor.is_floating_point())
        for name, tensor in tensors.items()
    }
    model.load_state_dict(own, assign=True)
    _check_integers(weights_path, model)
    return model.eval().requires_grad_(False), manifest


def load_quality_head(folder: Path, manifest: Manifest) -> QualityHead | None:
    """Load the head that tells what kind of picture an X-ray is; None for a model without one.

    Raises:
        ArtifactError: The file is not exactly what the manifest says.
    """
    named = manifest.quality_head
    if named is None:
        return None
    if Path(named.file).name != named.file:
        raise ArtifactError(f"{folder / MANIFEST_FILE}: quality_head.file is not a file's name")
    try:
        return read_quality_head(
            folder / named.file, named.sha256, named.labels, manifest.architecture
        )
    except ValueError as error:
        raise ArtifactError(str(error)) from error


def _empty_model(folder: Path, manifest: Manifest) -> PromptableSam:
    """Build the model whose weights `load_model` replaces, all of them."""
    path = folder / MANIFEST_FILE
    try:
        with _WithoutInitialValues():
            model = build_sam(SamConfig.from_dict(manifest.architecture))
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error
    layers = quantizable_layers(model)
    if set(layers) != set(manifest.quantization.layers):
        odd = sorted(set(layers) ^ set(manifest.quantization.layers))
        raise ArtifactError(f"{path}: quantization.layers does not fit the architecture: {odd[:3]}")
    for name, precision in manifest.quantization.layers.items():
        if precision == "int8":
            replace_module(model, name, empty_int8_layer(layers[name]))
    return model


class _WithoutInitialValues(TorchFunctionMode):
    """Leave the weights of layers that are built within the block uninitialized.

    Drawing random weights takes time, and untouched memory costs nothing. (PyTorch's meta device
    would do the same, but imports much code.)
    """

    _FILLERS = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._FILLERS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else None
        return func(*args, **(kwargs or {}))


def empty_int8_layer(layer: nn.Linear | nn.Conv2d) -> Int8Linear | Int8Conv2d:
    """Return the integer twin of a float layer, its integers all zero."""
    outputs = layer.weight.shape[0]
    matrix = Int8Matrix(
        weight=torch.zeros(outputs, layer.weight[0].numel(), dtype=torch.int8),
        weight_scale=torch.zeros(outputs),
        activation_scale=torch.zeros(()),
        bias=None if layer.bias is None else torch.zeros(outputs),
    )
    return wrap_matrix(matrix, layer)


def wrap_matrix(matrix: Int8Matrix, layer: nn.Linear | nn.Conv2d) -> Int8Linear | Int8Conv2d:
    """Wrap an integer matrix as the kind of layer that it replaces."""
    if isinstance(layer, nn.Linear):
        return Int8Linear(matrix)
    padding = layer.padding[0] if isinstance(layer.padding, tuple) else 0
    return Int8Conv2d(matrix, layer.kernel_size[0], layer.stride[0], padding)


def _unpack(
    path: Path, weight_levels: Mapping[str, int], expected: Mapping[str, Tensor],
    tensors: dict[str, Tensor],
) -> None:  # fmt: skip
    """Replace packed weights by the int8 that they stand for."""
    for layer, count in weight_levels.items():
        name = f"{layer}.matrix.weight"
        if name not in expected:
            raise ArtifactError(
                f"{path.with_name(MANIFEST_FILE)}: quantization.weight_levels names {layer!r}, "
                "which is not an integer layer"
            )
        if name in tensors:  # otherwise it is missing, which is reported later
            try:
                levels = WeightLevels(count)
                shape = tuple(expected[name].shape)
                tensors[name] = unpack_weights(tensors[name], shape, levels)
            except ValueError as error:
                raise ArtifactError(f"{path}: {name}: {error}") from error


def packed_tensors(
    tensors: Mapping[str, Tensor], weight_levels: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return the tensors of an integer model as `load_model` reads them from disk.

    Args:
        tensors: Its state.
        weight_levels: Number of values that a weight can have, by the names of packed layers.
    """
    stored = dict(tensors)
    for layer, count in weight_levels.items():
        name = f"{layer}.matrix.weight"
        stored[name] = pack_weights(stored[name].cpu(), WeightLevels(count))
    return stored


def _check_tensors(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise ArtifactError(f"{path} lacks the tensor {missing[0]!r} ({len(missing)} missing)")
    if extra:
        raise ArtifactError(f"{path} has an unknown tensor {extra[0]!r} ({len(extra)} unknown)")
    for name, tensor in found.items():
        want = expected[name]
        if tensor.shape != want.shape:
            raise ArtifactError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, not {tuple(want.shape)}"
            )
        stored_as = {want.dtype, torch.float16} if want.is_floating_point() else {want.dtype}
        if tensor.dtype not in stored_as:
            raise ArtifactError(f"{path}: {name} is {tensor.dtype}, not {want.dtype}")
        if want.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{path}: {name} holds numbers that are not finite")


def _check_integers(path: Path, model: PromptableSam) -> None:
    """Refuse weights beyond ±63: CPUs without VNNI would saturate on them, silently."""
    for name, module in model.named_modules():
        if isinstance(module, Int8Matrix):
            if int(module.weight.to(torch.int16).abs().max()) > WEIGHT_LIMIT:
                raise ArtifactError(f"{path}: {name}.weight goes beyond ±{WEIGHT_LIMIT}")
            if float(module.activation_scale) <= 0:
                raise ArtifactError(f"{path}: {name}.activation_scale is not positive")
