"""Additions of people and devices to a chest X-ray: letters, labels, wires, electrodes, borders."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from training.phantom.anatomy import Bools

LABELS = ("A-P", "PA ERECT", "AP SUPINE", "PORTABLE", "PA", "SITTING", "KV59", "ERECT")


def add_marks(
    image: NDArray[np.uint8], lungs: Bools, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Add devices, collimation and burnt-in text, each with some probability.

    Args:
        image: The picture. (H, W)
        lungs: The lungs, which collimation never cuts. (H, W)
        rng: Source of randomness.

    Returns:
        The marked picture. (H, W)
    """
    if rng.random() < 0.15:
        image = _with_devices(image, rng)
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    if rng.random() < 0.3:
        _draw_collimation(draw, lungs, rng)
    if rng.random() < 0.75:
        _draw_side_letter(draw, canvas.size, rng)
    if rng.random() < 0.45:
        _draw_label(draw, canvas.size, rng)
    return np.asarray(canvas)


def _with_devices(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render leads as smooth curves, each with its electrode; the body is seen through them."""
    height, width = image.shape
    layer = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(layer)
    along = np.linspace(0.0, 1.0, 65)
    weights = np.stack([(1 - along) ** 2, 2 * along * (1 - along), along**2], axis=1)
    thick = max(round(height * rng.uniform(0.002, 0.005)), 1)
    for _ in range(int(rng.integers(1, 5))):
        control = rng.uniform(0.0, 1.0, (3, 2)) * (width, height)
        points = [(float(x), float(y)) for x, y in weights @ control]
        opacity = int(rng.integers(60, 220))
        draw.line(points, fill=opacity, width=thick, joint="curve")
        radius = height * rng.uniform(0.01, 0.022)
        x, y = points[-1]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=opacity, width=thick)
    layer = layer.filter(ImageFilter.GaussianBlur(0.35 * thick))
    opacity_share = np.asarray(layer, dtype=np.float32) / 255.0
    return (image + (245.0 - image) * opacity_share).clip(0.0, 255.0).astype(np.uint8)


def _draw_collimation(draw: ImageDraw.ImageDraw, lungs: Bools, rng: np.random.Generator) -> None:
    """Black out up to four edges, never nearer to the lungs than 2 % of the picture."""
    height, width = lungs.shape
    rows, columns = np.flatnonzero(lungs.any(axis=1)), np.flatnonzero(lungs.any(axis=0))
    if not rows.size:
        return
    shade = int(rng.choice([0, 0, 0, 12, 255]))
    limits = (
        columns[0] / width - 0.02,
        rows[0] / height - 0.02,
        0.98 - (columns[-1] + 1) / width,
        0.98 - (rows[-1] + 1) / height,
    )
    # Written as shares of the picture, so that the border scales with its size.
    left, top, right, bottom = (
        float(rng.uniform(0.0, 1.0)) * min(max(float(limit), 0.0), 0.12)
        if rng.random() < 0.6
        else 0.0
        for limit in limits
    )
    boxes = (
        (0.0, 0.0, left, 1.0),
        (0.0, 0.0, 1.0, top),
        (1.0 - right, 0.0, 1.0, 1.0),
        (0.0, 1.0 - bottom, 1.0, 1.0),
    )
    for x0, y0, x1, y1 in boxes:
        corners = round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)
        if corners[2] > corners[0] and corners[3] > corners[1]:
            draw.rectangle((*corners[:2], corners[2] - 1, corners[3] - 1), fill=shade)


def _font(height: int, share: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(height * share, 6.0))


def _draw_side_letter(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator
) -> None:
    """Burn R into the left of the picture, or L into its right."""
    width, height = size
    font = _font(height, rng.uniform(0.03, 0.07))
    x, y = width * rng.uniform(0.01, 0.12), height * rng.uniform(0.01, 0.4)
    bright = int(rng.integers(190, 256))
    if rng.random() < 0.8:
        draw.text((x, y), "R", fill=bright, font=font)
    else:
        draw.text((width - x, y), "L", fill=bright, font=font, anchor="ra")


def _draw_label(draw: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Render a line of text near the upper or lower edge, sometimes dark on a bright plate."""
    width, height = size
    font = _font(height, rng.uniform(0.02, 0.04))
    text = str(rng.choice(LABELS))
    place = (width * rng.uniform(0.02, 0.8), height * float(rng.choice([0.005, 0.03, 0.95])))
    bright = int(rng.integers(180, 256))
    plate = rng.random() < 0.4
    if plate:
        draw.rectangle(draw.textbbox(place, text, font=font), fill=bright)
    draw.text(place, text, fill=0 if plate else bright, font=font)
