"""A small head on the image embedding that tells what kind of picture an X-ray is.

A mask network gives a mask for any picture. This head tells whether the picture is a frontal chest
at all, how it is turned, whether it is inverted and whether it is cut off. It uses the same
embedding, so it costs a tenth of a millisecond. The embedding is averaged over 4 x 4 parts of the
picture, because the orientation shows in where things are. It runs in NumPy, in float32, for one
picture at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

QUALITY_LABELS = (
    "not_frontal_chest", "turned_90", "turned_180", "turned_270", "mirrored", "inverted", "cut_off",
)  # fmt: skip
"""Labels of a picture. Turns are counter-clockwise; the opposite turn makes the picture upright.
``mirrored``: left and right are exchanged. ``cut_off``: part of a lung lies outside the picture."""

PARTS = 4
"""Number of parts along each side over which the embedding is averaged."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class QualityHead:
    """A perceptron with one hidden layer that gives a probability for each label.

    Attributes:
        labels: What each output stands for.
        hidden_weight: (K, D * PARTS * PARTS).
        hidden_bias: (K,).
        output_weight: (labels, K).
        output_bias: (labels,).
    """

    labels: tuple[str, ...]
    hidden_weight: Floats
    hidden_bias: Floats
    output_weight: Floats
    output_bias: Floats

    def probabilities(self, embedding: Floats) -> dict[str, float]:
        """Return the probability of each label.

        Args:
            embedding: The image embedding, float32 (D, G, G).
        """
        hidden = np.maximum(self.hidden_weight @ pooled(embedding) + self.hidden_bias, 0.0)
        logits = self.output_weight @ hidden + self.output_bias
        found = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return dict(zip(self.labels, found.tolist(), strict=True))


def pooled(embedding: Floats) -> Floats:
    """Return the means of an embedding (D, G, G) over its parts, (D * PARTS * PARTS,).

    Raises:
        ValueError: The grid does not divide into the parts.
    """
    width, grid = embedding.shape[:2]
    if grid % PARTS or embedding.shape[2] != grid:
        raise ValueError(f"the embedding is {embedding.shape}; its grid must divide by {PARTS}")
    cells = embedding.reshape(width, PARTS, grid // PARTS, PARTS, grid // PARTS)
    return np.asarray(cells.mean(axis=(2, 4)).ravel(), np.float32)


def write_quality_head(path: Path, head: QualityHead) -> str:
    """Write a head as safetensors; return the file's sha256."""
    tensors = {name: value for name, value in vars(head).items() if name != "labels"}
    save_file(tensors, path)
    path.chmod(0o644)  # safetensors writes 0600, which a container's other user could not read
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_quality_head(
    path: Path, sha256: str, labels: tuple[str, ...], architecture: Mapping[str, object]
) -> QualityHead:
    """Read a head and compare it with the model's manifest.

    Args:
        path: The file.
        sha256: Its hash in the manifest.
        labels: What its outputs stand for.
        architecture: Sizes of the model whose embedding it reads.

    Raises:
        ValueError: The file is missing, damaged, or does not fit the model; the message names it.
    """
    try:
        data = path.read_bytes()
        if (actual := hashlib.sha256(data).hexdigest()) != sha256:
            raise ValueError(f"{path} is damaged or another file: its sha256 is {actual}")
        tensors = load(data)
        head = QualityHead(labels, **tensors)
    except (OSError, SafetensorError, TypeError) as error:
        raise ValueError(f"{path} is not a quality head: {error}") from error
    inputs = int(str(architecture["prompt_dim"])) * PARTS * PARTS
    hidden = len(head.hidden_bias)
    wanted = [(hidden, inputs), (hidden,), (len(labels), hidden), (len(labels),)]
    found = [value.shape for value in tensors.values()]
    if sorted(found) != sorted(wanted) or any(v.dtype != np.float32 for v in tensors.values()):
        raise ValueError(f"{path} holds {found}; this model's head is {wanted} in float32")
    if not all(bool(np.isfinite(value).all()) for value in tensors.values()):
        raise ValueError(f"{path} holds numbers that are not finite")
    return head
