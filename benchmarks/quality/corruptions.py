"""X-rays corrupted in many ways, each with its mask, and pictures of other things.

A service does not always get one upright frontal chest X-ray: exports crop, turn, invert and tile.
Every corruption here is deterministic and changes an 8-bit X-ray together with its human mask.
After those of `USABLE` a good mask is still expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Changed = tuple[Pixels, Mask]
Change = Callable[[Pixels, Mask], Changed]

USABLE, CROPPED, TURNED, INVERTED = "usable", "cropped", "turned", "inverted"
SEVERAL, HIDDEN, DETAIL = "several", "hidden", "no detail"
_CUT, _TURNED, _INVERTED = ("cut_off_mask",), ("turned",), ("inverted",)
_OTHER = ("not_a_frontal_chest",)
_SEVERAL = ("not_a_frontal_chest", "too_many_lungs")


@dataclass(frozen=True)
class Corruption:
    """One corruption of X-rays.

    Attributes:
        group: kind of fault that it causes.
        change: function that applies it.
        right_codes: warnings that name the fault; none if there is no such code.
    """

    group: str
    change: Change
    right_codes: tuple[str, ...] = ()


def _grey(function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Change:
    """Change grey values of 0..1; the mask stays."""

    def change(pixels: Pixels, mask: Mask) -> Changed:
        values = np.clip(function(pixels / 255.0), 0.0, 1.0)
        return np.rint(values * 255).astype(np.uint8), mask

    return change


def _window(left: float, top: float, right: float, bottom: float) -> Change:
    """Keep a window, given in shares of the sides."""

    def change(pixels: Pixels, mask: Mask) -> Changed:
        height, width = mask.shape
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round(left * width), round(right * width))
        return pixels[rows, columns].copy(), mask[rows, columns].copy()

    return change


def _both(function: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> Change:
    """Apply a function to pixels and mask."""
    return lambda pixels, mask: (
        np.ascontiguousarray(function(pixels)).astype(np.uint8),
        np.ascontiguousarray(function(mask)).astype(bool),
    )


def _turned_by(degrees: float) -> Change:
    """Turn about the centre, on a canvas large enough for the whole picture."""

    def change(pixels: Pixels, mask: Mask) -> Changed:
        height, width = mask.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
        cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
        size = (round(height * sine + width * cosine), round(height * cosine + width * sine))
        matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
        moved = cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR)
        turned = cv2.warpAffine(mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
        return moved.astype(np.uint8), turned.astype(bool)

    return change


def _framed(share: float, value: int) -> Change:
    def change(pixels: Pixels, mask: Mask) -> Changed:
        margin = round(share * max(mask.shape))
        return np.pad(pixels, margin, constant_values=value), np.pad(mask, margin)

    return change


def _blanked(left: float, top: float, right: float, bottom: float, value: int) -> Change:
    """Hide a window, like a shield or a label; the hidden part does not belong to the mask."""

    def change(pixels: Pixels, mask: Mask) -> Changed:
        height, width = mask.shape
        rows = slice(round(top * height), round(bottom * height))
        columns = slice(round(left * width), round(right * width))
        pixels, mask = pixels.copy(), mask.copy()
        pixels[rows, columns] = value
        mask[rows, columns] = False
        return pixels, mask

    return change


def _one_lung_white(pixels: Pixels, mask: Mask) -> Changed:
    """Whiten the lung in the right half of the picture softly, like an effusion."""
    width = mask.shape[1]
    half = np.zeros(mask.shape, bool)
    half[:, width // 2 :] = True
    hidden = cv2.GaussianBlur((mask & half).astype(np.float32), (0, 0), 0.02 * width)
    level = float(np.percentile(pixels, 90))
    mixed = pixels * (1 - hidden) + level * hidden
    return np.rint(mixed).astype(np.uint8), mask & ~half


def _resized(width_share: float, height_share: float) -> Change:
    def change(pixels: Pixels, mask: Mask) -> Changed:
        height, width = mask.shape
        size = (max(32, round(width_share * width)), max(32, round(height_share * height)))
        smaller = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        moved = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        return smaller.astype(np.uint8), moved.astype(bool)

    return change


def _noise(deviation: float) -> Change:
    def function(values: NDArray[np.float64]) -> NDArray[np.float64]:
        noise = np.random.default_rng(0).normal(0, deviation, values.shape)
        changed: NDArray[np.float64] = values + noise
        return changed

    return _grey(function)


def _blur(share: float) -> Change:
    def change(pixels: Pixels, mask: Mask) -> Changed:
        blurred = cv2.GaussianBlur(pixels, (0, 0), share * max(mask.shape))
        return blurred.astype(np.uint8), mask

    return change


def _speckled(pixels: Pixels, mask: Mask) -> Changed:
    """Replace four pixels in ten by black or white."""
    rng = np.random.default_rng(0)
    drawn = rng.random(mask.shape)
    pixels = pixels.copy()
    pixels[drawn < 0.2] = 0
    pixels[drawn > 0.8] = 255
    return pixels, mask


CORRUPTIONS: Mapping[str, Corruption] = {
    "as it is": Corruption(USABLE, lambda pixels, mask: (pixels, mask)),
    "gamma 0.5": Corruption(USABLE, _grey(lambda x: x**0.5)),
    "gamma 2": Corruption(USABLE, _grey(lambda x: x**2)),
    "a third of the contrast": Corruption(USABLE, _grey(lambda x: 0.5 + (x - 0.5) / 3)),
    "noise of 6 %": Corruption(USABLE, _noise(0.06)),
    "black border": Corruption(USABLE, _framed(0.125, 0)),
    "white border": Corruption(USABLE, _framed(0.125, 255)),
    "turned by 8 degrees": Corruption(USABLE, _turned_by(8)),
    "mirrored": Corruption(USABLE, _both(lambda x: x[:, ::-1]), ("mirrored",)),
    "a third of the size": Corruption(USABLE, _resized(1 / 3, 1 / 3)),
    "upper half": Corruption(CROPPED, _window(0, 0, 1, 0.5), _CUT),
    "lower half": Corruption(CROPPED, _window(0, 0.5, 1, 1), _CUT),
    "left half": Corruption(CROPPED, _window(0, 0, 0.5, 1), (*_CUT, "one_lung")),
    "right half": Corruption(CROPPED, _window(0.5, 0, 1, 1), (*_CUT, "one_lung")),
    "middle 60 %": Corruption(CROPPED, _window(0.2, 0.2, 0.8, 0.8), _CUT),
    "middle 40 %": Corruption(CROPPED, _window(0.3, 0.3, 0.7, 0.7), _CUT + _OTHER),
    "upper left 65 %": Corruption(CROPPED, _window(0, 0, 0.65, 0.65), _CUT),
    "lower right 65 %": Corruption(CROPPED, _window(0.35, 0.35, 1, 1), _CUT),
    "turned by 90 degrees": Corruption(TURNED, _both(lambda x: np.rot90(x, 1)), _TURNED),
    "turned by 180 degrees": Corruption(TURNED, _both(lambda x: np.rot90(x, 2)), _TURNED),
    "turned by 270 degrees": Corruption(TURNED, _both(lambda x: np.rot90(x, 3)), _TURNED),
    "upside down": Corruption(TURNED, _both(lambda x: x[::-1]), _TURNED),
    "turned by 45 degrees": Corruption(TURNED, _turned_by(45), _TURNED + _OTHER),
    "inverted": Corruption(INVERTED, _grey(lambda x: 1 - x), _INVERTED),
    "two side by side": Corruption(
        SEVERAL, _both(lambda x: np.concatenate([x, x], axis=1)), _SEVERAL
    ),
    "two, one mirrored": Corruption(
        SEVERAL, _both(lambda x: np.concatenate([x, x[:, ::-1]], axis=1)), _SEVERAL
    ),
    "two, one above": Corruption(
        SEVERAL, _both(lambda x: np.concatenate([x, x], axis=0)), _SEVERAL
    ),
    "four in a grid": Corruption(SEVERAL, _both(lambda x: np.tile(x, (2, 2))), _SEVERAL),
    "lower half black": Corruption(HIDDEN, _blanked(0, 0.5, 1, 1, 0)),
    "right half black": Corruption(HIDDEN, _blanked(0.5, 0, 1, 1, 0)),
    "one lung white": Corruption(HIDDEN, _one_lung_white),
    "white bar across": Corruption(HIDDEN, _blanked(0, 0.4, 1, 0.6, 255)),
    "squeezed to 40 %": Corruption(HIDDEN, _resized(0.4, 1), _OTHER),
    "noise of 50 %": Corruption(DETAIL, _noise(0.5)),
    "speckled": Corruption(DETAIL, _speckled),
    "blurred, 5 % of a side": Corruption(DETAIL, _blur(0.05)),
    "a tenth of the contrast, noise": Corruption(
        DETAIL,
        _grey(lambda x: 0.5 + (x - 0.5) / 10 + np.random.default_rng(1).normal(0, 0.1, x.shape)),
    ),
}
"""All corruptions by name, in the order of the tables."""


def _disc(side: int) -> Pixels:
    rows, columns = np.mgrid[:side, :side] - side / 2
    cup = np.clip(1.2 - np.hypot(rows, columns) / (0.35 * side), 0, 1)
    disc: Pixels = np.rint(255 * cup).astype(np.uint8)
    return disc


def _text_page(side: int) -> Pixels:
    page = np.full((side, side), 255, np.uint8)
    for line in range(8, side // 16):
        place = (side // 10, 16 * line)
        cv2.putText(page, "report of findings " * 2, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 0)
    return page


def _hand(side: int) -> Pixels:
    hand = np.zeros((side, side), np.uint8)
    palm = (side // 2, round(0.68 * side))
    cv2.ellipse(hand, palm, (side // 6, side // 5), 0, 0, 360, 170, -1)
    for degrees in (-60, -20, -5, 10, 25):
        tip = np.array(palm) + 0.55 * side * np.array(
            [np.sin(np.radians(degrees)), -np.cos(np.radians(degrees))]
        )
        cv2.line(hand, palm, tuple(int(v) for v in tip), 150, side // 14)
    blurred: Pixels = cv2.GaussianBlur(hand, (0, 0), side / 100).astype(np.uint8)
    return blurred


def made_up_pictures(side: int = 512) -> Mapping[str, Pixels]:
    """Return synthetic pictures that show no chest, (side, side) each."""
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(0, 255, side), (side, 1)).astype(np.uint8)
    clouds = cv2.GaussianBlur(rng.random((side, side)).astype(np.float32), (0, 0), side / 16)
    clouds = (clouds - clouds.min()) / (clouds.max() - clouds.min())
    checks = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((side // 8, side // 8))) * 255
    return {
        "noise": rng.integers(0, 256, (side, side), dtype=np.uint8),
        "clouds": np.rint(255 * clouds).astype(np.uint8),
        "ramp": ramp,
        "ramp downwards": np.ascontiguousarray(ramp.T),
        "chessboard": checks.astype(np.uint8),
        "disc": _disc(side),
        "ring": np.maximum(_disc(side), 255 - _disc(side)).astype(np.uint8),
        "page of text": _text_page(side),
        "white hand": _hand(side),
        "black hand": (255 - _hand(side)).astype(np.uint8),
    }
