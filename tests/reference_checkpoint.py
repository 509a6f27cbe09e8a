"""The reference's model as its checkpoint describes it: SamModel, QuantLinear, adapters on qkv."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIZES: dict[str, Any] = {
    "input_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 3,
    "global_attn_indexes": (1,), "in_channels": 3, "prompt_dim": 32, "decoder_heads": 2,
    "num_mask_tokens": 4, "pixel_mean": (120.0, 110.0, 100.0), "pixel_std": (60.0, 55.0, 50.0),
    "decoder_mlp_dim": 48, "iou_head_hidden_dim": 16,
}  # fmt: skip
"""A `SamConfig` of the same sizes."""

ALPHA, TARGET_RANK, MAX_RANK = 32.0, 4, 6


class FactoredQkv(nn.Module):
    """``attn.qkv`` with a low-rank term on each of q, k and v."""

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        self.qkv = qkv
        width = qkv.in_features
        for part in "qkv":
            setattr(self, f"P_{part}", nn.Parameter(torch.randn(width, MAX_RANK)))
            setattr(self, f"Lambda_{part}", nn.Parameter(torch.randn(MAX_RANK) * 0.01))
            setattr(self, f"Q_{part}", nn.Parameter(torch.randn(MAX_RANK, width)))
            self.register_buffer(f"importance_{part}", torch.rand(MAX_RANK))
            kept = torch.zeros(MAX_RANK, dtype=torch.bool)
            kept[torch.randperm(MAX_RANK)[:TARGET_RANK]] = True
            self.register_buffer(f"mask_{part}", kept)
        self.register_buffer("importance_ema", torch.tensor(1.0))
        self.register_buffer("qat_mode", torch.tensor(True))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., D) to (..., 3 D)."""
        terms = []
        for part in "qkv":
            singular = getattr(self, f"Lambda_{part}") * getattr(self, f"mask_{part}")
            low = tokens @ getattr(self, f"Q_{part}").T * singular
            terms.append(low @ getattr(self, f"P_{part}").T * (ALPHA / TARGET_RANK))
        return self.qkv(tokens) + torch.cat(terms, dim=-1)


class ReferenceSam(nn.Module):
    """``sam`` and, as the published file has them, its adapters a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.sam = _hugging_face_sam()
        _quantize(self.sam.mask_decoder)
        self.adalora_modules = nn.ModuleList()
        for layer in self.sam.vision_encoder.layers:
            _quantize(layer, skip="qkv")
            layer.attn.qkv = FactoredQkv(layer.attn.qkv)
            self.adalora_modules.append(layer.attn.qkv)


def _hugging_face_sam() -> Any:
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    side, width = SIZES["input_size"], SIZES["embed_dim"]
    vision = SamVisionConfig(
        hidden_size=width, output_channels=SIZES["prompt_dim"], num_hidden_layers=SIZES["depth"],
        num_attention_heads=SIZES["num_heads"], image_size=side, patch_size=16,
        window_size=SIZES["window_size"], global_attn_indexes=list(SIZES["global_attn_indexes"]),
        mlp_dim=4 * width, num_pos_feats=SIZES["prompt_dim"] // 2,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(
        hidden_size=SIZES["prompt_dim"], image_size=side, patch_size=16, mask_input_channels=16
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=SIZES["prompt_dim"], mlp_dim=SIZES["decoder_mlp_dim"],
        num_attention_heads=SIZES["decoder_heads"],
        iou_head_hidden_dim=SIZES["iou_head_hidden_dim"],
    )  # fmt: skip
    config = SamConfig(
        vision_config=vision.to_dict(), prompt_encoder_config=prompt.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )  # fmt: skip
    return SamModel(config)


def _quantize(parent: nn.Module, skip: str = "") -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own old imports
        import brevitas.nn as quantized_layers
        from brevitas.quant import Int8WeightPerTensorFloat

    for name, child in list(parent.named_children()):
        if name == skip:
            continue
        if not isinstance(child, nn.Linear):
            _quantize(child, skip)
            continue
        layer = quantized_layers.QuantLinear(
            child.in_features, child.out_features, bias=child.bias is not None,
            weight_bit_width=8, weight_quant=Int8WeightPerTensorFloat, bias_quant=None,
        )  # fmt: skip
        layer.load_state_dict(child.state_dict())
        setattr(parent, name, layer)


def make_reference(seed: int = 0) -> ReferenceSam:
    """The model with random weights, none of them at a telling value."""
    torch.manual_seed(seed)
    model = ReferenceSam()
    with torch.no_grad():
        model.sam.shared_image_embedding.positional_embedding.normal_()  # as in Meta's files
        for name, parameter in model.sam.named_parameters():
            if "Lambda" in name or "positional" in name:
                continue
            if parameter.ndim == 1 or "embed" in name or "rel_pos" in name or "token" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:  # its own start is close to zero in the vision encoder
                parameter.normal_(0.0, 1.2 * parameter[0].numel() ** -0.5)
    return model.eval()


def save_reference(model: ReferenceSam, path: Path, **changes: Any) -> Path:
    """Write the file as the reference's stage 2 writes it."""
    state = {**model.state_dict(), **changes}
    content = {
        "epoch": 7,
        "model_state_dict": {name: value for name, value in state.items() if value is not None},
        "val_dice": 0.956,
        "val_metrics": {"dice": 0.956, "iou": 0.917},
        "stage1_dice": 0.957,
        "quantized_layers": 68,
    }
    torch.save(content, path)
    return path
