"""The network's input and output for one X-ray, as bytes.

The serving process forwards them and reads none of their values, so it needs no NumPy.
`service.compute.network_arrays` converts them to arrays, in the compute process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model_store.boxes import Box
from model_store.conventions import Convention
from model_store.structures import LUNGS, Structure


@dataclass(frozen=True)
class NetworkInput:
    """An X-ray at the size of the network's input, with its boxes and options.

    Attributes:
        pixels: grey values, uint8 (S, S), rows first.
        side: S, in pixels.
        width: width of the X-ray, in pixels.
        height: height of the X-ray, in pixels.
        boxes: prompt boxes in pixels of the X-ray, at least one.
        convention: which lungs the masks follow.
        structures: what the masks show; each box has one of each, in this order.
    """

    pixels: bytes
    side: int
    width: int
    height: int
    boxes: tuple[Box, ...]
    convention: Convention
    structures: tuple[Structure, ...] = (LUNGS,)

    @property
    def requested_masks(self) -> list[tuple[Box, Structure]]:
        """Box and structure of each mask of this request, in order."""
        return [(box, structure) for box in self.boxes for structure in self.structures]


@dataclass(frozen=True)
class BoxLogits:
    """The network's output for one structure in one box.

    Attributes:
        box: the requested box, in pixels of the X-ray.
        logits: mask logits over the whole padded input, native float32 (M, M), rows first.
        side: M.
        score: predicted IoU of the mask with the truth, 0..1.
        structure: what the mask shows.
    """

    box: Box
    logits: bytes
    side: int
    score: float
    structure: Structure = LUNGS


@dataclass(frozen=True)
class NetworkOutput:
    """The network's output for one X-ray, by boxes and then structures, and its times.

    Attributes:
        masks: one for each structure of each box.
        stage_seconds: seconds of the network's stages.
        quality: probability of each label of the quality head; None from a model without one.
        together: number of X-rays in the network's call, on devices that batch them.
    """

    masks: tuple[BoxLogits, ...]
    stage_seconds: Mapping[str, float]
    quality: Mapping[str, float] | None = None
    together: int | None = None
