"""A frozen image encoder that computes each image once and stores its embedding in a file.

So a decoder can be trained for many steps on a CPU on which the encoder takes seconds an image. It
only works for unchanged X-rays, because another pixel makes another image.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn


class RememberingEncoder(nn.Module):
    """Replaces a frozen image encoder."""

    def __init__(self, encoder: nn.Module, folder: Path) -> None:
        """Store the embeddings of ``encoder`` in ``folder``, one file for each image.

        Args:
            encoder: Frozen encoder from images (B, C, S, S) to embeddings (B, D, G, G).
            folder: Folder for this encoder only; created if missing.
        """
        super().__init__()
        # Not a submodule, because a checkpoint of the decoder must not have the frozen encoder.
        self._encoder = [encoder.eval().requires_grad_(False)]
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings, each computed alone, independent of the batch."""
        return torch.cat([self._embedding(image[None]) for image in images])

    def _embedding(self, image: Tensor) -> Tensor:
        digest = hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).hexdigest()
        file = self._folder / f"{digest}.pt"
        if not file.exists():
            with torch.no_grad():
                found = self._encoder[0](image.cpu())
            partial = file.with_suffix(".partial")
            torch.save(found.cpu(), partial)
            partial.rename(file)
        kept: Tensor = torch.load(file, weights_only=True)
        return kept.to(image.device)
