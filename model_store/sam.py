"""A batched SAM: image encoder, prompt encoder and mask decoder for many prompts at once.

``segment_anything``'s own ``Sam.forward`` runs under ``no_grad`` and loops over images, and its
mask decoder expects one image per call. Training needs gradients and batches, so the same parts
are composed here; `predict_all_masks` is checked against the original decoder in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model_store.box_raster import rasterize_boxes


class PromptableSam(nn.Module):
    """SAM with Meta's parameter names, so that ``sam_vit_*.pth`` load by key."""

    image_encoder: Any
    prompt_encoder: Any
    mask_decoder: Any
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: nn.Module,
        mask_decoder: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        box_as_mask: bool = False,
        box_shift_px: float = 0.0,
    ) -> None:
        """Compose the three parts; the pixel statistics are per channel, of 0 to 255.

        With ``box_as_mask`` a box is also given as SAM's mask prompt, beside its corners;
        ``box_shift_px`` is added to the corners, as `model_store.architecture` explains.
        """
        super().__init__()
        self.box_as_mask = box_as_mask
        self.box_shift_px = box_shift_px
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        mean = torch.tensor(pixel_mean, dtype=torch.float32).view(1, -1, 1, 1)
        std = torch.tensor(pixel_std, dtype=torch.float32).view(1, -1, 1, 1)
        self.register_buffer("pixel_mean", mean, persistent=False)  # (1, C, 1, 1)
        self.register_buffer("pixel_std", std, persistent=False)  # (1, C, 1, 1)

    def normalize(self, pixels: Tensor, valid: Tensor | None = None) -> Tensor:
        """Turn grey pixels into the encoder's input.

        Args:
            pixels: Grey values of 0 to 255, any dtype, (B, 1, S, S).
            valid: 1 where the image is and 0 where it was padded, (B, 1, S, S); padding becomes
                exactly 0 after normalisation, as in SAM. None means no padding.

        Returns:
            float32 (B, C, S, S); the grey channel is repeated when the encoder has three.
        """
        normalized = (pixels.float() - self.pixel_mean) / self.pixel_std
        return normalized if valid is None else normalized * valid

    def encode_image(self, normalized: Tensor) -> Tensor:
        """Encode normalised images (B, C, S, S) into embeddings (B, D, G, G)."""
        embedding: Tensor = self.image_encoder(normalized)
        return embedding

    def decode_masks(
        self, embeddings: Tensor, boxes: Tensor, image_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode each prompt box on its image.

        Args:
            embeddings: Image embeddings, (B, D, G, G).
            boxes: ``x0, y0, x1, y1`` in pixels of the model's input, (N, 4).
            image_index: Which image each box belongs to, int64 (N,).

        Returns:
            Mask logits (N, T, 4G, 4G) and predicted IoU (N, T), for all T mask tokens.
        """
        # SAM's prompt encoder adds half a pixel to reach pixel centres; continuous edges need no
        # shift.
        prompts = self.prompt_encoder
        drawn = None
        if self.box_as_mask:
            drawn = rasterize_boxes(boxes, prompts.input_image_size[0], prompts.mask_input_size[0])
        sparse, dense = prompts(points=None, boxes=boxes - (0.5 - self.box_shift_px), masks=drawn)
        position = prompts.get_dense_pe()  # (1, D, G, G)
        image = embeddings if _is_identity(image_index, embeddings) else embeddings[image_index]
        return predict_all_masks(self.mask_decoder, image, position, sparse, dense)

    def forward(
        self, normalized: Tensor, boxes: Tensor, image_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode images and decode boxes; shapes as in `encode_image` and `decode_masks`."""
        return self.decode_masks(self.encode_image(normalized), boxes, image_index)


def _is_identity(image_index: Tensor, embeddings: Tensor) -> bool:
    return image_index.shape[0] == 1 == embeddings.shape[0]


def predict_all_masks(
    decoder: Any, image: Tensor, position: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """Run SAM's mask decoder on N (image, prompt) pairs at once.

    Args:
        decoder: A ``segment_anything`` ``MaskDecoder``.
        image: Image embeddings, one per prompt, (N, D, G, G).
        position: Position encoding of the grid, (1, D, G, G).
        sparse: Prompt tokens, (N, P, D).
        dense: Dense prompt embedding, (N, D, G, G).

    Returns:
        Mask logits (N, T, 4G, 4G) and predicted IoU (N, T).
    """
    count, width, grid = image.shape[0], image.shape[1], image.shape[2]
    learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
    tokens = torch.cat([learned.unsqueeze(0).expand(count, -1, -1), sparse], dim=1)
    source = image + dense  # (N, D, G, G)
    hidden, source = decoder.transformer(source, position.expand(count, -1, -1, -1), tokens)
    source = source.transpose(1, 2).reshape(count, width, grid, grid)
    upscaled = decoder.output_upscaling(source)  # (N, D/8, 4G, 4G)
    mask_tokens = hidden[:, 1 : 1 + decoder.num_mask_tokens]  # (N, T, D)
    weights = torch.stack(
        [mlp(mask_tokens[:, i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )  # (N, T, D/8)
    masks = (weights @ upscaled.flatten(2)).view(count, -1, 4 * grid, 4 * grid)
    iou: Tensor = decoder.iou_prediction_head(hidden[:, 0])  # (N, T)
    return masks, iou
