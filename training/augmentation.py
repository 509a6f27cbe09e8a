"""Random changes that a real X-ray could have: where it lies, how it was exposed, what is on it.

Geometry is one affine map per sample, applied to image and lungs together in one interpolation.
A horizontal flip mirrors the heart to the other side, which only a wrongly hung film or a rare
situs inversus shows; it is therefore drawn as rarely as configured, never half of the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

Pixels = NDArray[np.float32]
"""Grey values of 0..1, (S, S)."""


@dataclass(frozen=True)
class AugmentConfig:
    """How far and how often samples are changed; probabilities are per sample.

    Attributes:
        scale_range: Size of the X-ray against filling the input.
        aspect_deviation: Standard deviation of the logarithm of width over height.
        rotation_degrees: Largest rotation either way.
        shift_share: Largest shift, as a share of the input's side.
        unmoved: Probability to lie exactly as in serving: no affine change at all.
        mirror: Probability of a horizontal flip.
        gamma_deviation: Standard deviation of log gamma.
        contrast_range: Factor on the distance from mid-grey.
        brightness: Largest shift of grey, either way.
        invert: Probability of inverted photometry.
        equalize: Probability of histogram equalisation.
        shading: Probability of a smooth field of gain (grid cut-off, heel effect).
        blur: Probability of a loss of sharpness.
        noise_deviation: Largest standard deviation of noise.
        border: Probability of a drawn border or collimation.
        marks: Probability of burnt-in letters or arrows.
        devices: Probability of lines, tubes and pads lying on the chest.
    """

    scale_range: tuple[float, float] = (0.78, 1.18)
    aspect_deviation: float = 0.08
    rotation_degrees: float = 12.0
    shift_share: float = 0.10
    unmoved: float = 0.20
    mirror: float = 0.03
    gamma_deviation: float = 0.35
    contrast_range: tuple[float, float] = (0.6, 1.3)
    brightness: float = 0.12
    invert: float = 0.05
    equalize: float = 0.08
    shading: float = 0.20
    blur: float = 0.15
    noise_deviation: float = 0.06
    border: float = 0.15
    marks: float = 0.20
    devices: float = 0.20

    def __post_init__(self) -> None:
        """Refuse ranges that are upside down and probabilities outside 0..1."""
        for name in ("scale_range", "contrast_range"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"augment.{name} {low}..{high} must rise and be positive")
        for name in ("unmoved", "mirror", "invert", "equalize", "shading", "blur", "border"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} is a probability, not {getattr(self, name)}")


NO_AUGMENTATION = AugmentConfig(
    scale_range=(1.0, 1.0), aspect_deviation=0, rotation_degrees=0, shift_share=0, unmoved=1,
    mirror=0, gamma_deviation=0, contrast_range=(1.0, 1.0), brightness=0, invert=0, equalize=0,
    shading=0, blur=0, noise_deviation=0, border=0, marks=0, devices=0,
)  # fmt: skip
"""Samples exactly as serving would see them."""


@dataclass(frozen=True)
class AugmentedBatch:
    """A batch on its way into the model.

    Attributes:
        pixels: Grey values of 0 to 255, float32 (B, 1, S, S).
        valid: 1 where there is image, 0 where there is padding, (B, 1, S, S).
        lungs: Share of each pixel that is lung, left and right, (B, 2, S, S).
    """

    pixels: Tensor
    valid: Tensor
    lungs: Tensor


def augment_batch(
    images: Sequence[NDArray[np.uint8]],
    lungs: Sequence[NDArray[np.bool_]],
    input_size: int,
    config: AugmentConfig,
    rngs: Sequence[np.random.Generator],
) -> AugmentedBatch:
    """Move, re-expose and mark a batch of X-rays.

    Args:
        images: Grey values, each (H, W) of its own size.
        lungs: Left and right lung of each, (2, H, W).
        input_size: Side S of the model's input, in pixels.
        config: How far and how often.
        rngs: One source of randomness per sample, so that a sample never depends on its
            neighbours in the batch.

    Returns:
        The batch at the input size.
    """
    planes = np.stack(
        [
            _warp(image, pair, _draw_affine(image.shape, input_size, config, rng), input_size)
            for image, pair, rng in zip(images, lungs, rngs, strict=True)
        ]
    )  # (B, 4, S, S): image, valid, left, right
    valid = torch.from_numpy((planes[:, 1] > 127).astype(np.float32)).unsqueeze(1)
    exposed = [
        _expose(plane / np.float32(255.0), config, rng)
        for plane, rng in zip(planes[:, 0], rngs, strict=True)
    ]
    pixels = torch.from_numpy(np.stack(exposed)).unsqueeze(1) * 255.0
    flips = [rng.random() < config.mirror for rng in rngs]
    swapped = torch.from_numpy(planes[:, 2:] / np.float32(255.0))  # (B, 2, S, S)
    for index in np.flatnonzero(flips):
        pixels[index], valid[index] = pixels[index].flip(-1), valid[index].flip(-1)
        swapped[index] = swapped[index].flip(0).flip(-1)  # the left lung is now the right one
    return AugmentedBatch(pixels * valid, valid, swapped)


def _draw_affine(
    shape: tuple[int, ...], input_size: int, config: AugmentConfig, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the map from input pixels to image pixels, (2, 3)."""
    height, width = shape
    base = max(height, width) / input_size  # image pixels per input pixel, as in serving
    if rng.random() < config.unmoved:
        return np.array([[base, 0.0, 0.0], [0.0, base, 0.0]])
    low, high = config.scale_range
    scale = math.exp(rng.uniform(math.log(low), math.log(high)))
    aspect = math.exp(rng.normal(0.0, config.aspect_deviation) / 2)
    angle = math.radians(rng.uniform(-config.rotation_degrees, config.rotation_degrees))
    shift = rng.uniform(-config.shift_share, config.shift_share, 2) * input_size
    # Content keeps its centre where serving puts it, or sits in the middle of the input.
    centre_image = np.array([width, height]) / 2
    centre_input = centre_image / base if rng.random() < 0.5 else np.full(2, input_size / 2)
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[cos / aspect, sin / aspect], [-sin * aspect, cos * aspect]]) * base / scale
    offset = centre_image - linear @ (centre_input + shift)
    return np.concatenate([linear, offset[:, None]], axis=1)


def _warp(
    image: NDArray[np.uint8], lungs: NDArray[np.bool_], affine: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """Sample image, valid region and lungs at the input's pixel centres, (4, S, S).

    The four planes travel as the channels of one picture of bytes: Pillow's bilinear transform
    takes half the time of torch's ``grid_sample``. RGBA will not do, as Pillow would multiply
    the other channels by the last.
    """
    planes = np.empty((*image.shape, 4), dtype=np.uint8)
    planes[..., 0], planes[..., 1] = image, 255
    planes[..., 2], planes[..., 3] = lungs[0] * np.uint8(255), lungs[1] * np.uint8(255)
    picture = Image.frombytes("CMYK", image.shape[::-1], planes.tobytes())
    moved = picture.transform(
        (size, size),
        Image.Transform.AFFINE,
        tuple(affine.ravel().tolist()),
        Image.Resampling.BILINEAR,
    )
    return np.ascontiguousarray(np.asarray(moved).transpose(2, 0, 1))


def _expose(pixels: Pixels, config: AugmentConfig, rng: np.random.Generator) -> Pixels:
    """Change grey values as other generators, detectors, film, devices and archives would."""
    image = pixels
    if rng.random() < config.devices:
        image = _draw_devices(image, rng)
    if rng.random() < config.equalize:
        image = _equalize(image)
    gamma = math.exp(rng.normal(0.0, config.gamma_deviation))
    image = np.power(np.clip(image, 0.0, 1.0), gamma)
    if rng.random() < config.shading:
        image = image * _smooth_field(image.shape[0], rng)
    if rng.random() < config.blur:
        image = ndimage.gaussian_filter(image, rng.uniform(0.4, 1.3))
    contrast = rng.uniform(*config.contrast_range)
    image = (image - 0.5) * contrast + 0.5 + rng.uniform(-config.brightness, config.brightness)
    deviation = rng.uniform(0.0, config.noise_deviation)
    if deviation > 0:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * deviation
    if rng.random() < config.invert:
        image = 1.0 - image
    if rng.random() < config.marks:
        image = _draw_marks(image, rng)
    if rng.random() < config.border:
        image = _draw_border(image, rng)
    return np.clip(image, 0.0, 1.0).astype(np.float32)


def _equalize(image: Pixels) -> Pixels:
    """Spread grey values to equal counts, as some archives stored them."""
    levels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    cumulative = np.cumsum(np.bincount(levels.ravel(), minlength=256)).astype(np.float32)
    return np.asarray((cumulative / cumulative[-1])[levels], dtype=np.float32)


def _smooth_field(size: int, rng: np.random.Generator) -> Pixels:
    """Return a gain of about 0.6 to 1.4 that varies over the whole picture, (S, S)."""
    coarse = torch.from_numpy(rng.uniform(0.6, 1.4, (1, 1, 3, 3)).astype(np.float32))
    fine = functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    return np.asarray(fine[0, 0].numpy(), dtype=np.float32)


def _drawn(image: Pixels, draw_on: Image.Image) -> Pixels:
    return np.asarray(draw_on, dtype=np.float32).reshape(image.shape)


def _draw_devices(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Lay cables, tubes and electrode pads over the picture; they add density."""
    size = image.shape[0]
    layer = Image.new("F", (size, size), 0.0)
    draw = ImageDraw.Draw(layer)
    for _ in range(int(rng.integers(1, 4))):
        points = rng.uniform(0, size, (4, 2))
        t = np.linspace(0, 1, 24)[:, None]
        curve = (
            (1 - t) ** 3 * points[0] + 3 * (1 - t) ** 2 * t * points[1]
            + 3 * (1 - t) * t**2 * points[2] + t**3 * points[3]
        )  # fmt: skip
        width = int(rng.integers(1, max(2, size // 64)))
        draw.line(
            [tuple(p) for p in curve.tolist()], fill=float(rng.uniform(0.1, 0.5)), width=width
        )
    for _ in range(int(rng.integers(0, 3))):
        x, y = rng.uniform(0, size, 2)
        radius = rng.uniform(0.01, 0.05) * size
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=rng.uniform(0.1, 0.4))
    return np.asarray(image + _drawn(image, layer), dtype=np.float32)


_LETTERS = ("L", "R", "AP", "PA", "PORTABLE", "SUPINE", "ERECT", "L  AP", "12:45", "R 3")


def _draw_marks(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Burn letters or an arrow into the picture, white or black."""
    size = image.shape[0]
    layer = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    draw = ImageDraw.Draw(layer)
    shade = float(rng.choice([1.0, 1.0, 0.0]))
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0.0, 0.92, 2) * size
        if rng.random() < 0.75:
            font = ImageFont.load_default(size=float(rng.uniform(0.03, 0.09) * size))
            draw.text((x, y), str(rng.choice(_LETTERS)), fill=shade, font=font)
        else:
            dx, dy = rng.uniform(-0.15, 0.15, 2) * size
            draw.line([x, y, x + dx, y + dy], fill=shade, width=max(1, size // 128))
            tip = size / 64
            draw.polygon([x, y, x + tip, y - tip, x + tip, y + tip], fill=shade)
    return _drawn(image, layer)


def _draw_border(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Cover up to 8 % at each edge in black or white: collimation, film edge, screenshot."""
    size = image.shape[0]
    left, top, right, bottom = (rng.uniform(0.0, 0.08, 4) * size * (rng.random(4) < 0.6)).astype(
        int
    )
    framed = np.full_like(image, float(rng.choice([0.0, 0.0, 1.0])))
    inner = (slice(top, size - bottom), slice(left, size - right))
    framed[inner] = image[inner]
    return framed
