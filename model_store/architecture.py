"""Every size of a SAM in one frozen config, the named variants, and how one is built."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from model_store.conventions import CONVENTIONS
from model_store.sam import PromptableSam
from model_store.segment_anything_parts import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)

SAM_BOX_SHIFT_PX = 0.5
"""SAM treats box coordinates as pixel indices, and adds half a pixel to reach pixel centres."""

_SIZES_FROM_1 = (
    "patch_size", "in_channels", "embed_dim", "depth", "num_heads", "prompt_dim", "decoder_depth",
    "decoder_heads", "decoder_mlp_dim", "num_mask_tokens", "iou_head_hidden_dim",
)  # fmt: skip


@dataclass(frozen=True)
class SamConfig:
    """The sizes of one SAM; everything needed to build it without weights.

    Attributes:
        variant: Name of the family member, for people.
        input_size: Side of the square input, in pixels; a multiple of ``patch_size``.
        patch_size: Side of one patch, in pixels.
        in_channels: 1 for the compact models (X-rays are grey), 3 for Meta's.
        embed_dim: Width of the image encoder.
        depth: Number of encoder blocks.
        num_heads: Attention heads of the encoder.
        window_size: Side of the attention windows, in patches; 0 for none.
        global_attn_indexes: Blocks that attend globally although ``window_size`` is set.
        prompt_dim: Width of the neck, the prompt encoder and the mask decoder.
        decoder_depth: Blocks of the two-way transformer.
        decoder_heads: Attention heads of the two-way transformer.
        decoder_mlp_dim: Hidden width of the two-way transformer.
        num_mask_tokens: Mask tokens; at least one per convention.
        iou_head_hidden_dim: Hidden width of the head that predicts mask quality.
        pixel_mean: Mean that is subtracted from grey values of 0 to 255, per channel.
        pixel_std: Deviation by which they are then divided, per channel.
        box_as_mask: Whether a box is also given as SAM's mask prompt, with its exact edges.
        box_shift_px: Shift of a box's corners before they are encoded, in pixels of the input. It
            is 0 for our models, which use continuous edges, and `SAM_BOX_SHIFT_PX` for models
            trained by SAM's own code.
    """

    variant: str
    input_size: int
    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...] = ()
    window_size: int = 0
    patch_size: int = 16
    in_channels: int = 1
    prompt_dim: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 512
    num_mask_tokens: int = 2
    iou_head_hidden_dim: int = 128
    pixel_mean: tuple[float, ...] = (127.5,)
    pixel_std: tuple[float, ...] = (63.75,)
    box_as_mask: bool = False
    box_shift_px: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together, with the numbers in the message."""
        for name in _SIZES_FROM_1:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.window_size < 0:
            raise ValueError(f"window_size is {self.window_size}; it must be at least 0")
        if not abs(self.box_shift_px) <= 1:
            raise ValueError(f"box_shift_px is {self.box_shift_px}; it lies between -1 and 1")
        if any(not deviation > 0 for deviation in self.pixel_std):
            raise ValueError(f"pixel_std is {list(self.pixel_std)}; each must be above 0")
        if self.input_size <= 0 or self.input_size % self.patch_size:
            raise ValueError(
                f"input_size {self.input_size} is not a positive multiple of "
                f"patch_size {self.patch_size}"
            )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}"
            )
        if self.prompt_dim % (2 * self.decoder_heads):
            raise ValueError(
                f"prompt_dim {self.prompt_dim} is not divisible by 2 x decoder_heads "
                f"{self.decoder_heads} (cross attention halves the width)"
            )
        if self.num_mask_tokens < len(CONVENTIONS):
            raise ValueError(
                f"num_mask_tokens {self.num_mask_tokens} is below the {len(CONVENTIONS)} "
                "conventions, each of which owns a token"
            )
        if len(self.pixel_mean) != self.in_channels or len(self.pixel_std) != self.in_channels:
            raise ValueError(
                f"pixel_mean and pixel_std need {self.in_channels} values each, as in_channels says"
            )
        if any(not 0 <= index < self.depth for index in self.global_attn_indexes):
            raise ValueError(
                f"global_attn_indexes {self.global_attn_indexes} reach past depth {self.depth}"
            )

    @property
    def grid_size(self) -> int:
        """Side of the patch grid and of the image embedding."""
        return self.input_size // self.patch_size

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; `from_dict` reads them back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamConfig:
        """Build a config from the JSON types of `to_dict`.

        Raises:
            ValueError: A name is unknown or missing, or the sizes do not fit together.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown architecture fields: {', '.join(unknown)}")
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        try:
            return cls(**plain)
        except TypeError as error:
            raise ValueError(f"architecture is incomplete: {error}") from error


_META_SIZES = {
    "in_channels": 3,
    "window_size": 14,
    "prompt_dim": 256,
    "decoder_mlp_dim": 2048,
    "num_mask_tokens": 4,
    "iou_head_hidden_dim": 256,
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "vit_t": {"input_size": 256, "embed_dim": 192, "depth": 8, "num_heads": 6},
    "vit_b": {
        **_META_SIZES,
        "input_size": 1024,
        "embed_dim": 768,
        "depth": 12,
        "num_heads": 12,
        "global_attn_indexes": (2, 5, 8, 11),
    },
    "vit_l": {
        **_META_SIZES,
        "input_size": 1024,
        "embed_dim": 1024,
        "depth": 24,
        "num_heads": 16,
        "global_attn_indexes": (5, 11, 17, 23),
    },
    "vit_h": {
        **_META_SIZES,
        "input_size": 1024,
        "embed_dim": 1280,
        "depth": 32,
        "num_heads": 16,
        "global_attn_indexes": (7, 15, 23, 31),
    },
}
"""Meta's three sizes, whose checkpoints load by key, and our compact family for CPUs."""


def sam_config(variant: str, **changes: Any) -> SamConfig:
    """Return the config of a named variant, with some sizes changed.

    Raises:
        ValueError: The variant is unknown, or the changed sizes do not fit together.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; it must be one of {', '.join(VARIANTS)}")
    return SamConfig.from_dict({"variant": variant, **VARIANTS[variant], **changes})


def build_sam(config: SamConfig) -> PromptableSam:
    """Build a SAM of these sizes with fresh random weights, in float32 on the CPU."""
    encoder = ImageEncoderViT(
        img_size=config.input_size,
        patch_size=config.patch_size,
        in_chans=config.in_channels,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=4,
        out_chans=config.prompt_dim,
        qkv_bias=True,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_attn_indexes,
    )
    prompt_encoder = PromptEncoder(
        embed_dim=config.prompt_dim,
        image_embedding_size=(config.grid_size, config.grid_size),
        input_image_size=(config.input_size, config.input_size),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        transformer_dim=config.prompt_dim,
        transformer=TwoWayTransformer(
            depth=config.decoder_depth,
            embedding_dim=config.prompt_dim,
            num_heads=config.decoder_heads,
            mlp_dim=config.decoder_mlp_dim,
        ),
        num_multimask_outputs=config.num_mask_tokens - 1,
        iou_head_depth=3,
        iou_head_hidden_dim=config.iou_head_hidden_dim,
    )
    return PromptableSam(
        encoder, prompt_encoder, mask_decoder, config.pixel_mean, config.pixel_std,
        config.box_as_mask, config.box_shift_px,
    )  # fmt: skip
