"""Masks by models where nobody annotated: the other convention, the heart, new X-rays.

Each model segments several views of an X-ray (unchanged, mirrored, darker, brighter, locally
equalized) with two boxes: the whole image, and the tight box of the first pass. The mean of the
probabilities decides. Structures then constrain each other: a lung field is the whole lung without
the heart, and a whole lung contains the lung field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from model_store.conventions import token_of
from model_store.geometry import Box, InputGeometry
from model_store.logit_resampling import logits_to_image
from model_store.sam import PromptableSam
from model_store.structures import HEART, STRUCTURE_TOKENS
from training.data.dataset import LabelledXray
from training.data.prompts import tight_box

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Probabilities = NDArray[np.float32]

_SMALLEST_LUNG = 0.15
"""Least share of the larger part at which another part counts as the second lung."""

_SMOOTHING = 0.006
"""Standard deviation of the smoothing of composed outlines, as a share of the image's width."""

_HEART_SMOOTHING = 0.02
_LEAST_SOLIDITY = 0.9
_LEAST_SOLIDITY_FOR_FIELD = 0.8
_HEART_SHARES = (0.1, 0.6)
"""A heart's area as a share of both whole lungs: 0.18 to 0.45 in nine of ten X-rays."""
_LEAST_FIELD = 0.78


@dataclass(frozen=True)
class Segmenters:
    """The models that segment each structure; their probabilities are averaged.

    Attributes:
        lung_field: Models for lung fields.
        whole_lung: Models for whole lungs.
        heart: Models for the heart.
    """

    lung_field: Sequence[PromptableSam]
    whole_lung: Sequence[PromptableSam]
    heart: Sequence[PromptableSam]


@dataclass(frozen=True)
class PseudoMasks:
    """The masks of one X-ray, bool (H, W); None if a mask fails the plausibility checks."""

    lung_field: Mask | None
    whole_lung: Mask
    heart: Mask | None


def pseudo_masks(
    image: Image, segmenters: Segmenters, annotated: LabelledXray | None = None
) -> PseudoMasks:
    """Segment every structure of an X-ray.

    Args:
        image: Windowed grey values, uint8 (H, W).
        segmenters: The models, each on its device and in evaluation mode.
        annotated: The X-ray with its human mask, which is kept.

    Returns:
        The masks; human masks are unchanged.
    """
    whole = _lungs(_mean_probability(image, segmenters.whole_lung, token_of("whole_lung")))
    field = _mean_probability(image, segmenters.lung_field, token_of("lung_field")) > 0.5
    heart = _mean_probability(image, segmenters.heart, STRUCTURE_TOKENS[HEART])
    heart_mask = _largest(_smoothed(heart > 0.5))
    if annotated is not None and annotated.convention == "lung_field":
        own = annotated.mask
        whole = _lungs(_smoothed(whole | own)) | own
        return PseudoMasks(own, whole, believed_heart(heart_mask, whole))
    if annotated is not None:
        whole = annotated.mask
    composed = _lungs(_smoothed(field & whole & ~heart_mask)) & whole
    field_mask = composed if is_field_believed(composed, whole, heart_mask) else None
    return PseudoMasks(field_mask, whole, believed_heart(heart_mask, whole))


def believed_heart(heart: Mask, whole_lung: Mask) -> Mask | None:
    """Return a heart (H, W) with a smoothed outline; None if its shape is implausible.

    The 196 annotated hearts fill at least 0.927 of their convex hull (median 0.98).
    """
    if not heart.any():
        return None
    smooth = _largest(_smoothed(heart, _HEART_SMOOTHING))
    share = smooth.sum() / max(int(whole_lung.sum()), 1)
    is_heart = _solidity(smooth) >= _LEAST_SOLIDITY and _HEART_SHARES[0] < share < _HEART_SHARES[1]
    return smooth if is_heart else None


def is_field_believed(field: Mask, whole_lung: Mask, heart: Mask) -> bool:
    """Return whether a lung field excludes little more of the whole lung than the heart.

    Beside the heart it excludes the upper mediastinum, a tenth of the rest (median).
    """
    rest = int((whole_lung & ~heart).sum())
    is_full = field.sum() >= _LEAST_FIELD * rest > 0
    return bool(is_full and _solidity(heart) >= _LEAST_SOLIDITY_FOR_FIELD)


def _solidity(mask: Mask) -> float:
    """Return the share of its convex hull that the largest part of a mask fills."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return 0.0
    outline = max(outlines, key=cv2.contourArea)
    return cv2.contourArea(outline) / max(cv2.contourArea(cv2.convexHull(outline)), 1.0)


def _mean_probability(image: Image, models: Sequence[PromptableSam], token: int) -> Probabilities:
    """Return the mean probability over models, views and boxes, float32 (H, W)."""
    height, width = image.shape
    whole: Box = (0.0, 0.0, float(width), float(height))
    first = _over_views(image, models, token, [whole])
    box = tight_box(first > 0.5)
    if box is None:
        return first
    return np.asarray((first + _over_views(image, models, token, [box])) / 2, np.float32)


def _over_views(
    image: Image, models: Sequence[PromptableSam], token: int, boxes: Sequence[Box]
) -> Probabilities:
    height, width = image.shape
    total = np.zeros((height, width), np.float32)
    for model in models:
        geometry = InputGeometry(width, height, model.prompt_encoder.input_image_size[0])
        device = model.pixel_mean.device
        mirrored = [(width - x1, y0, width - x0, y1) for x0, y0, x1, y1 in boxes]
        pixels = np.stack([geometry.image_to_input(view(image)) for view, _ in _VIEWS])
        prompts = [geometry.box_to_input(m if flip else b)
                 for _, flip in _VIEWS for b, m in zip(boxes, mirrored, strict=True)]  # fmt: skip
        valid = torch.from_numpy(geometry.valid_region())[None, None].to(device)
        with torch.no_grad():
            seen = model.normalize(torch.from_numpy(pixels)[:, None].to(device), valid)
            index = torch.arange(len(_VIEWS), device=device).repeat_interleave(len(boxes))
            logits, _ = model(seen, torch.tensor(prompts, device=device), index)
            full = logits_to_image(logits[:, token].float(), geometry).sigmoid()
            flips = torch.tensor([flip for _, flip in _VIEWS for _ in boxes], device=device)
            upright = torch.where(flips[:, None, None], full.flip(2), full)
            total += upright.mean(dim=0).cpu().numpy()
    return np.asarray(total / len(models), np.float32)


def _gamma(value: float) -> Callable[[Image], Image]:
    table = np.round(255 * (np.arange(256) / 255) ** value).astype(np.uint8)
    return lambda image: np.asarray(table[image], np.uint8)


def _equalized(image: Image) -> Image:
    return np.asarray(cv2.createCLAHE(2.0, (4, 4)).apply(image), np.uint8)


def _mirrored(image: Image) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


_VIEWS: tuple[tuple[Callable[[Image], Image], bool], ...] = (
    (lambda image: image, False),
    (_mirrored, True),
    (_gamma(0.7), False),
    (_gamma(1.4), False),
    (_equalized, False),
)
"""Views of an X-ray, and whether each is mirrored."""


def _smoothed(mask: Mask, smoothing: float = _SMOOTHING) -> Mask:
    deviation = smoothing * mask.shape[1]
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), deviation)
    return np.asarray(np.greater(soft, 0.5), bool)


def _lungs(mask: Mask | Probabilities) -> Mask:
    """Keep the largest part, and the next one if it is large enough to be the other lung."""
    labels, count = ndimage.label(np.greater(mask, 0.5))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-areas)[:2]
    kept = [int(i) + 1 for i in order if areas[i] >= _SMALLEST_LUNG * areas.max()]
    return np.asarray(ndimage.binary_fill_holes(np.isin(labels, kept)))


def _largest(mask: Mask) -> Mask:
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    areas = np.bincount(labels.ravel())[1:]
    return np.asarray(ndimage.binary_fill_holes(labels == int(areas.argmax()) + 1))
