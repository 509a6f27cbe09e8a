"""Training pictures of the quality head, with their known labels.

The labels of an X-ray that is turned, mirrored, inverted or cut here are certain. Pictures that are
not a frontal chest come from folders of other pictures, and from unusable X-rays: a part without
lungs, two in one picture, shuffled tiles, noise, shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model_store.quality_head import QUALITY_LABELS
from training.data.augmentation import AugmentConfig, augment
from training.data.dataset import LabelledXray
from training.quality.damage import Grey, damaged

Mask = NDArray[np.bool_]

CUT_SHARE = 0.06
"""Least share of the lungs outside at which a picture counts as cut off; below a sixth of it, it
does not."""

_CUT_EDGES = (0.4, 0.35, 0.05, 0.2)
"""Probabilities of one, two, three or four cut edges."""

EXPOSURE = AugmentConfig(
    scale_range=(0.75, 1.0), aspect_deviation=0.06, rotation_degrees=9, shift_share=0.0,
    elastic=0.01, unmoved=0.4, mirror=0, invert=0, border=0.05, portable=0.25,
)  # fmt: skip
"""Augmentation of every picture beside its changes: never inverted, mirrored or moved out."""


@dataclass(frozen=True)
class QualitySample:
    """One picture at the size of a model's input.

    Attributes:
        pixels: uint8 (S, S).
        valid: 1 where there is image, uint8 (S, S).
        labels: 1 where a label of `QUALITY_LABELS` is true, float32 (labels,).
        known: 1 where the label is certain, float32 (labels,).
    """

    pixels: Grey
    valid: Grey
    labels: NDArray[np.float32]
    known: NDArray[np.float32]


def changed_xray(
    xray: LabelledXray, input_size: int, rng: np.random.Generator, change: bool = True
) -> QualitySample:
    """Return an X-ray after random changes, or unchanged without ``change``."""
    image, mask = xray.image, xray.mask
    true: dict[str, bool] = dict.fromkeys(QUALITY_LABELS, False)
    known = dict.fromkeys(QUALITY_LABELS, True)
    if change:
        if rng.random() < 0.15:
            image, is_half_hidden = damaged(image, mask, rng)
            if is_half_hidden:
                known["cut_off"] = known["mirrored"] = False
        if rng.random() < 0.35:
            image, mask, lost = _cut(image, mask, rng)
            true["cut_off"] = lost >= CUT_SHARE
            known["cut_off"] &= true["cut_off"] or lost < CUT_SHARE / 6
            known["mirrored"] &= lost < 0.3  # half a chest need not show its heart
        if rng.random() < 0.35:
            image, mask = image[:, ::-1], mask[:, ::-1]
            true["mirrored"] = True
        turns = int(rng.choice(4, p=[0.58, 0.14, 0.14, 0.14]))
        if turns:
            image, mask = np.rot90(image, turns), np.rot90(mask, turns)
            true[f"turned_{90 * turns}"] = True
        if rng.random() < 0.2:
            image = 255 - image
            true["inverted"] = True
    return _sample(np.ascontiguousarray(image), input_size, rng, true, known, change)


def other_picture(image: Grey, input_size: int, rng: np.random.Generator) -> QualitySample:
    """Return a random part of another picture, (H, W), randomly turned."""
    height, width = image.shape
    vertical, horizontal = rng.uniform(0.6, 1.0, 2)
    rows, columns = max(int(height * vertical), 1), max(int(width * horizontal), 1)
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    part = image[top : top + rows, left : left + columns]
    turned = np.rot90(part, int(rng.integers(4)) if rng.random() < 0.4 else 0)
    if rng.random() < 0.15:
        turned = 255 - turned
    return _not_frontal(np.ascontiguousarray(turned), input_size, rng)


def ruined_xray(
    xray: LabelledXray, second: LabelledXray, input_size: int, rng: np.random.Generator
) -> QualitySample:
    """Return a picture made from an X-ray, or from two, that shows no frontal chest."""
    kind = int(rng.integers(9))
    if kind == 0:
        picture = _part_without_lungs(xray, rng)
    elif kind == 1:
        picture = _two_in_one(xray.image, second.image, rng)
    elif kind == 2:
        picture = _shuffled(xray.image, int(rng.integers(2, 5)), rng)
    elif kind == 3:
        picture = _magnified(xray.image, rng)
    elif kind == 4:
        picture = _shapes(rng)
    elif kind == 5:
        picture = _folded(xray.image, rng)
    elif kind == 6:
        picture = _squeezed(xray.image, rng)
    elif kind == 7:
        pair = _two_in_one(xray.image, second.image, rng)
        picture = _two_in_one(pair, pair, rng)
    else:
        picture = _texture(rng)
    return _not_frontal(picture, input_size, rng)


def _not_frontal(image: Grey, input_size: int, rng: np.random.Generator) -> QualitySample:
    true = {name: name == "not_frontal_chest" for name in QUALITY_LABELS}
    return _sample(image, input_size, rng, true, dict(true), change=True)


def _sample(
    image: Grey, input_size: int, rng: np.random.Generator, true: dict[str, bool],
    known: dict[str, bool], change: bool,
) -> QualitySample:  # fmt: skip
    nothing = np.zeros((2, *image.shape), bool)
    config = (
        EXPOSURE if change else AugmentConfig(**{**vars(EXPOSURE), "unmoved": 1.0, "portable": 0.0})
    )
    seen = augment(image, nothing, input_size, config, rng)
    labels, certain = (
        np.array([values[name] for name in QUALITY_LABELS], np.float32) for values in (true, known)
    )
    return QualitySample(np.ascontiguousarray(seen.pixels), seen.valid, labels, certain)


def _cut(image: Grey, mask: Mask, rng: np.random.Generator) -> tuple[Grey, Mask, float]:
    """Cut the picture at some edges; return picture, mask and the lost share of the lungs."""
    height, width = image.shape
    edges = int(rng.choice(4, p=_CUT_EDGES)) + 1
    deepest = 0.55 if edges < 3 else 0.35
    depth = rng.uniform(0.0, deepest, 4) * (rng.permutation(4) < edges)
    top, bottom = int(depth[0] * height), height - int(depth[1] * height * 0.9)
    left, right = int(depth[2] * width), width - int(depth[3] * width * 0.9)
    if bottom - top < height // 4 or right - left < width // 4:
        return image, mask, 0.0
    kept = mask[top:bottom, left:right]
    return image[top:bottom, left:right], kept, 1 - kept.sum() / max(int(mask.sum()), 1)


def _part_without_lungs(xray: LabelledXray, rng: np.random.Generator) -> Grey:
    height, width = xray.image.shape
    best, least = xray.image[: height // 3, : width // 3], 1.0
    for _ in range(8):
        rows, columns = int(height * rng.uniform(0.2, 0.5)), int(width * rng.uniform(0.2, 0.5))
        top, left = int(rng.integers(0, height - rows)), int(rng.integers(0, width - columns))
        place = (slice(top, top + rows), slice(left, left + columns))
        share = float(xray.mask[place].mean())
        if share < least:
            best, least = xray.image[place], share
    return np.ascontiguousarray(best)


def _two_in_one(first: Grey, second: Grey, rng: np.random.Generator) -> Grey:
    size = (int(first.shape[1]), int(first.shape[0]))
    other = second[:, ::-1] if rng.random() < 0.3 else second
    pair = [first, np.asarray(cv2.resize(other, size), np.uint8)]
    return np.concatenate(pair, axis=int(rng.integers(2)))


def _squeezed(image: Grey, rng: np.random.Generator) -> Grey:
    """Squeeze one side to 30 to 47 %."""
    height, width = image.shape
    share = float(rng.uniform(0.3, 0.47))
    size = (round(width * share), height) if rng.random() < 0.7 else (width, round(height * share))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _shuffled(image: Grey, tiles: int, rng: np.random.Generator) -> Grey:
    rows, columns = image.shape[0] // tiles, image.shape[1] // tiles
    order = rng.permutation(tiles * tiles)
    cut = [
        image[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns]
        for r, c in (divmod(int(place), tiles) for place in order)
    ]
    lines = [np.concatenate(cut[i : i + tiles], 1) for i in range(0, len(cut), tiles)]
    return np.concatenate(lines, 0)


def _magnified(image: Grey, rng: np.random.Generator) -> Grey:
    rows, columns = (int(n * rng.uniform(0.1, 0.28)) for n in image.shape)
    top, left = (
        int(rng.integers(0, n - m)) for n, m in zip(image.shape, (rows, columns), strict=True)
    )
    return np.ascontiguousarray(image[top : top + rows, left : left + columns])


def _folded(image: Grey, rng: np.random.Generator) -> Grey:
    """Overlay both halves of the chest, like a lateral view, with a spine at one side."""
    half = image.shape[1] // 2
    left, right = image[:, :half].astype(np.float32), image[:, ::-1][:, :half].astype(np.float32)
    share = np.float32(rng.uniform(0.35, 0.65))
    folded = share * left + (1 - share) * right
    columns = np.arange(half, dtype=np.float32) / half
    spine = np.exp(-(((columns - rng.uniform(0.05, 0.35)) / rng.uniform(0.05, 0.12)) ** 2))
    folded = folded + spine * np.float32(rng.uniform(20, 90))
    if rng.random() < 0.5:
        folded = folded[:, ::-1]
    border = int(half * rng.uniform(0.0, 0.6))
    framed = np.pad(np.clip(folded, 0, 255).astype(np.uint8), ((0, 0), (border, border)))
    return np.ascontiguousarray(framed)


def _shapes(rng: np.random.Generator) -> Grey:
    """Draw discs, boxes and lines of any grey, as in photographs, drawings and pages."""
    side = 256
    picture = np.full((side, side), rng.integers(256), np.uint8)
    for _ in range(int(rng.integers(1, 25))):
        (x0, y0), (x1, y1) = rng.integers(0, side, (2, 2)).tolist()
        grey, kind = int(rng.integers(256)), int(rng.integers(4))
        if kind == 0:
            cv2.circle(picture, (x0, y0), int(rng.integers(4, 90)), grey, -1, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(picture, (x0, y0), (x1, y1), grey, -1)
        elif kind == 2:
            cv2.line(picture, (x0, y0), (x1, y1), grey, int(rng.integers(1, 20)), cv2.LINE_AA)
        else:
            words = "".join(chr(int(c)) for c in rng.integers(65, 91, 12))
            cv2.putText(picture, words, (x0 // 2, y0), cv2.FONT_HERSHEY_SIMPLEX, 1.0, grey, 2)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, 4))), np.uint8)


def _texture(rng: np.random.Generator) -> Grey:
    """Return noise of one or several scales, or a gradient."""
    side = 256
    total = np.zeros((side, side), np.float32)
    for scale in rng.choice(2 ** np.arange(1, 9), int(rng.integers(1, 5)), replace=False):
        coarse = rng.normal(0, 1, (int(scale), int(scale))).astype(np.float32)
        total += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / max(high - low, 1e-6) * 255, np.uint8)
