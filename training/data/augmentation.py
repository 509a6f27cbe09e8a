"""Augmentation by changes that a real X-ray could have: position, exposure, overlaid objects.

Geometry is one smooth map per sample, applied to image and lungs together in one interpolation.
OpenCV does the work on every pixel. With Pillow, SciPy and PyTorch, a GPU that trains a compact
model would wait for its batches. A horizontal flip mirrors the heart to the other side, which only
a mirrored X-ray or a rare situs inversus shows. So it is rare by default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.data.portable import portable_xray
from training.errors import ConfigError
from training.settings import Share, check_settings

Pixels = NDArray[np.float32]
"""Grey values of 0..1, (S, S)."""

Levels = NDArray[np.uint8]
"""Grey values or shares of 0..255, (S, S)."""


Factor = Annotated[float, Interval(gt=0, le=100)]
"""A range of factors for sizes or contrasts."""


@dataclass(frozen=True)
class AugmentConfig:
    """Sizes and probabilities of changes; probabilities are per sample.

    Attributes:
        scale_range: Size of the X-ray relative to filling the input.
        aspect_deviation: Standard deviation of the logarithm of width over height.
        rotation_degrees: Largest rotation either way.
        shift_share: Largest shift, as a share of the input's side.
        elastic: Largest standard deviation of a smooth displacement, as a share of the input's
            side, sampled on a grid of 5 x 5 (Simard et al. 2003), for a variety of anatomies.
        unmoved: Probability of no change of geometry, as in serving.
        mirror: Probability of a horizontal flip.
        gamma_deviation: Standard deviation of log gamma.
        contrast_range: Factor on the distance from mid-grey.
        brightness: Largest shift of grey, either way.
        invert: Probability of inverted photometry.
        equalize: Probability of histogram equalisation.
        shading: Probability of a smooth field of gain (grid cut-off, heel effect).
        blur: Probability of a loss of sharpness.
        noise_deviation: Largest standard deviation of noise.
        border: Probability of a border or collimation.
        marks: Probability of burnt-in letters or arrows.
        devices: Probability of lines, tubes and pads lying on the chest.
        portable: Probability of the features of a portable X-ray (`training.data.portable`).
    """

    scale_range: tuple[Factor, Factor] = (0.78, 1.18)
    aspect_deviation: Annotated[float, Interval(ge=0, le=2)] = 0.08
    rotation_degrees: Annotated[float, Interval(ge=0, le=180)] = 12.0
    shift_share: Share = 0.10
    elastic: Annotated[float, Interval(ge=0, le=0.05)] = 0.0
    unmoved: Share = 0.20
    mirror: Share = 0.03
    gamma_deviation: Annotated[float, Interval(ge=0, le=2)] = 0.35
    contrast_range: tuple[Factor, Factor] = (0.6, 1.3)
    brightness: Share = 0.12
    invert: Share = 0.05
    equalize: Share = 0.08
    shading: Share = 0.20
    blur: Share = 0.15
    noise_deviation: Annotated[float, Interval(ge=0, le=2)] = 0.06
    border: Share = 0.15
    marks: Share = 0.20
    devices: Share = 0.20
    portable: Share = 0.0

    def __post_init__(self) -> None:
        """Refuse inverted ranges, and values out of range.

        An elastic displacement above 0.05 folds lungs.
        """
        check_settings(self, "augment")
        for name in ("scale_range", "contrast_range"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"augment.{name} is [{low}, {high}]; it must rise")


@dataclass(frozen=True)
class AugmentedXray:
    """An augmented X-ray at the input size; padding is black and without lungs.

    Attributes:
        pixels: Grey values of 0 to 255, uint8 (S, S).
        valid: 1 where there is image, 0 where there is padding, uint8 (S, S).
        lungs: Share of lung in each pixel, of 255, left and right, uint8 (2, S, S).
        further: The same of the further masks (`training.data.further_masks`), uint8 (3, S, S) or,
            without any, (0, S, S).
    """

    pixels: Levels
    valid: Levels
    lungs: NDArray[np.uint8]
    further: NDArray[np.uint8]


def augment(
    image: NDArray[np.uint8],
    lungs: NDArray[np.bool_],
    input_size: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    further: NDArray[np.bool_] | None = None,
) -> AugmentedXray:
    """Change position, exposure and overlaid objects of an X-ray.

    Args:
        image: Grey values, (H, W).
        lungs: Left and right lung, (2, H, W).
        input_size: Side S of the model's input, in pixels.
        config: Sizes and probabilities of the changes.
        rng: Random generator of this X-ray, so that the result does not depend on the batch.
        further: Planes of further masks, (3, H, W), or None.

    Returns:
        The X-ray at the input size.
    """
    x, y = _draw_map(image.shape, input_size, config, rng)
    moved, valid, pair = _warp(image, lungs, x, y)
    more = _warp_planes(further, x, y, valid)
    if config.portable and rng.random() < config.portable:
        moved, seen = portable_xray(moved, rng)
        pair, more = pair * seen, more * seen
    pixels = _expose(moved, config, rng) * valid
    if rng.random() < config.mirror:
        pixels, valid = pixels[:, ::-1], valid[:, ::-1]
        pair = pair[::-1, :, ::-1]  # the left lung is now the right one
        more = more[[1, 0, 2], :, ::-1] if len(more) else more
    return AugmentedXray(pixels, valid, pair, more)


def _draw_map(
    shape: tuple[int, ...], input_size: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Sample a map from input pixels to the image: x and y of each centre, (S, S) each.

    Positions count from the centre of the image's first pixel, as OpenCV's do.
    """
    base = max(shape) / input_size  # image pixels per input pixel, as in serving
    linear, offset = base * np.eye(2), np.zeros(2)
    columns = np.arange(input_size, dtype=np.float32)[None, :] + np.float32(0.5)
    rows = columns.T
    if rng.random() >= config.unmoved:
        linear, offset = _draw_affine(shape, input_size, base, config, rng)
        if config.elastic:
            deviation = rng.uniform(0.0, config.elastic) * input_size
            columns = columns + _smooth_field(input_size, rng.normal(0.0, deviation, (5, 5)))
            rows = rows + _smooth_field(input_size, rng.normal(0.0, deviation, (5, 5)))
    (a, b), (c, d) = linear.astype(np.float32)
    x0, y0 = (offset - 0.5).astype(np.float32)
    return a * columns + b * rows + x0, c * columns + d * rows + y0


def _draw_affine(
    shape: tuple[int, ...],
    input_size: int,
    base: float,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sample the affine map from input to image pixels: a matrix (2, 2) and an offset (2,)."""
    height, width = shape
    low, high = config.scale_range
    scale = math.exp(rng.uniform(math.log(low), math.log(high)))
    aspect = math.exp(rng.normal(0.0, config.aspect_deviation) / 2)
    angle = math.radians(rng.uniform(-config.rotation_degrees, config.rotation_degrees))
    shift = rng.uniform(-config.shift_share, config.shift_share, 2) * input_size
    # The centre stays where serving puts it, or moves to the middle of the input.
    centre_image = np.array([width, height]) / 2
    centre_input = centre_image / base if rng.random() < 0.5 else np.full(2, input_size / 2)
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[cos / aspect, sin / aspect], [-sin * aspect, cos * aspect]]) * base / scale
    return linear, centre_image - linear @ (centre_input + shift)


def _warp(
    image: NDArray[np.uint8], lungs: NDArray[np.bool_], x: Pixels, y: Pixels
) -> tuple[Levels, Levels, NDArray[np.uint8]]:
    """Sample image, valid region and lungs at positions of the image.

    Returns:
        Image (S, S), valid region of 0 and 1 (S, S), lungs (2, S, S) in shares of 255.
    """
    cv2.setNumThreads(1)  # batches are already made in parallel processes
    planes = cv2.merge([image, *(lungs.view(np.uint8) * np.uint8(255))])  # (H, W, 3)
    moved = cv2.remap(planes, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    height, width = image.shape
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    valid = inside.view(np.uint8)
    pixels, left, right = (np.asarray(plane, np.uint8) * valid for plane in cv2.split(moved))
    return pixels, valid, np.stack([left, right])


def _warp_planes(
    planes: NDArray[np.bool_] | None, x: Pixels, y: Pixels, valid: Levels
) -> NDArray[np.uint8]:
    """Sample further masks (K, H, W) at positions of the image: (K, S, S) in shares of 255."""
    if planes is None:
        return np.zeros((0, *valid.shape), np.uint8)
    stacked = cv2.merge([plane.view(np.uint8) * np.uint8(255) for plane in planes])
    moved = cv2.remap(stacked, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.stack([np.asarray(plane, np.uint8) * valid for plane in cv2.split(moved)])


def _expose(levels: Levels, config: AugmentConfig, rng: np.random.Generator) -> Levels:
    """Change grey values like other generators, detectors, cassettes, devices and archives."""
    image = levels.astype(np.float32) / np.float32(255.0)
    if rng.random() < config.devices:
        image = _draw_devices(image, rng)
    if rng.random() < config.equalize:
        image = _equalize(image)
    gamma = math.exp(rng.normal(0.0, config.gamma_deviation))
    image = np.power(np.clip(image, 0.0, 1.0), gamma)
    if rng.random() < config.shading:
        image = image * _smooth_field(image.shape[0], rng.uniform(0.6, 1.4, (3, 3)))
    if rng.random() < config.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3)), np.float32)
    contrast = rng.uniform(*config.contrast_range)
    image = (image - 0.5) * contrast + 0.5 + rng.uniform(-config.brightness, config.brightness)
    deviation = rng.uniform(0.0, config.noise_deviation)
    if deviation > 0:
        image = image + _noise(image.shape[0], deviation, rng)
    if rng.random() < config.invert:
        image = 1.0 - image
    if rng.random() < config.marks:
        image = _draw_marks(image, rng)
    if rng.random() < config.border:
        image = _draw_border(image, rng)
    return np.asarray(cv2.convertScaleAbs(np.clip(image, 0.0, 1.0), alpha=255.0), np.uint8)


def _equalize(image: Pixels) -> Pixels:
    """Spread grey values to equal counts, as some archives stored them."""
    levels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    cumulative = np.cumsum(np.bincount(levels.ravel(), minlength=256)).astype(np.float32)
    return np.asarray((cumulative / cumulative[-1])[levels], dtype=np.float32)


def _noise(size: int, deviation: float, rng: np.random.Generator) -> Pixels:
    """Return normal noise, (S, S), faster than NumPy."""
    noise = np.empty((size, size), np.float32)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise, np.zeros(1), np.full(1, deviation))
    return noise


def _smooth_field(size: int, coarse: NDArray[np.float64]) -> Pixels:
    """Return a coarse grid of values as a smooth field over the whole picture, (S, S)."""
    fine = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine, dtype=np.float32)


def _drawn(image: Pixels, draw_on: Image.Image) -> Pixels:
    return np.asarray(draw_on, dtype=np.float32).reshape(image.shape)


def _draw_devices(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Draw cables, tubes and electrode pads over the picture; they add density."""
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
    """Cover up to 8 % at each edge in black or white: collimation, scan, screenshot."""
    size = image.shape[0]
    left, top, right, bottom = (rng.uniform(0.0, 0.08, 4) * size * (rng.random(4) < 0.6)).astype(
        int
    )
    framed = np.full_like(image, float(rng.choice([0.0, 0.0, 1.0])))
    inner = (slice(top, size - bottom), slice(left, size - right))
    framed[inner] = image[inner]
    return framed
