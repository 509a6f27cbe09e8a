"""A frozen image encoder that computes each image once and keeps its embedding in a file.

A decoder can then be trained for many steps on a processor where the encoder alone takes seconds an
image. It pays for X-rays that come unchanged: another pixel is another image.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn


class RememberingEncoder(nn.Module):
    """Stands in for a frozen image encoder."""

    def __init__(self, encoder: nn.Module, folder: Path) -> None:
        """Keep what ``encoder`` finds in ``folder``, one file for each image.

        Args:
            encoder: Maps images (B, C, S, S) to embeddings (B, D, G, G); its weights stay.
            folder: Made when it is not there; of this encoder alone.
        """
        super().__init__()
        # Not a submodule: what is frozen belongs into no checkpoint of the decoder's training.
        self._encoder = [encoder.eval().requires_grad_(False)]
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings, each computed alone, whatever else is in the batch."""
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
