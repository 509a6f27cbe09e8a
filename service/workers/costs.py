"""How much processor time a task may take: three times what honest X-rays need.

One place for the figures. They are measured by `python -m benchmarks.service.image_costs`, which
fits a line to the honest files of each coding and says how far the most expensive one is from it.
The factor of three covers slower processors and files that nobody thought of. No X-ray of any
device or viewer known here uses it up.

The front knows nothing but a file's length when it hands it over, so `first_grant_s` covers what
ordinary X-rays need. The worker knows coding and size once it has read the header
(`before_decoding` of `read_picture`), and then states the need (`Task.needs_cpu`): mostly less than
granted; where it is more, the task waits again as one of the costly ones, which get at most half
of the workers.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_store.pictures.pixel_coding import PixelCoding

FACTOR = 3.0
LEAST_S = 0.5
"""No budget is smaller: the kernel counts in ticks, and a first use of a library costs more."""

ORDINARY_OPENING_S = 1.5
"""Budget of ordinary X-rays: all of 4 megapixels but JPEG 2000, and 9 megapixels of PNG. With 3 s,
eight callers with 40 megapixels each were ordinary, and everybody waited behind them."""

ORDINARY_RENDERING_S = 2.5
"""Budget of ordinary answers: a mask and an overlay of 10 megapixels."""


@dataclass(frozen=True)
class Cost:
    """Processor time of honest work, as a line.

    Attributes:
        base_s: whatever the size, seconds.
        per_megapixel_s: for each million of pixels, seconds.
        per_megabyte_s: for each million of bytes in the file, seconds.
    """

    base_s: float
    per_megapixel_s: float
    per_megabyte_s: float

    def seconds(self, pixels: int, size_bytes: int = 0) -> float:
        """Return the processor time for so many pixels and bytes."""
        per_pixel = self.per_megapixel_s * pixels * 1e-6
        return self.base_s + per_pixel + self.per_megabyte_s * size_bytes * 1e-6


OPENING = {
    PixelCoding.NATIVE: Cost(0.0024, 0.0050, 0.0071),
    PixelCoding.DEFLATE: Cost(0.0077, 0.0190, 0.0362),
    PixelCoding.RLE: Cost(0.0027, 0.0050, 0.0147),
    PixelCoding.JPEG: Cost(0.0029, 0.0137, 0.0702),
    PixelCoding.JPEG_SCANS: Cost(0.6, 0.0137, 0.0702),
    PixelCoding.JPEG_LOSSLESS: Cost(0.0037, 0.0289, 0.0216),
    PixelCoding.JPEG_LS: Cost(0.0035, 0.0313, 0.0267),
    PixelCoding.JPEG_2000: Cost(0.0156, 0.0325, 0.2013),
}
"""Decoding and preparing for the network. No device writes `JPEG_SCANS`, so nobody measures it: its
base makes it costly at any size, and is 150 scans of 3 megapixels (1.3 ms each)."""

MOST_CODED_BYTES_PER_PIXEL = 16
"""Four channels of 16 bits, and as much again for codes that are longer than what they code."""

MASK = Cost(0.0050, 0.0080, 0.0)
"""Making one mask and rendering it."""

OVERLAY = Cost(0.0050, 0.0700, 0.0)
"""Drawing and compressing the overlay."""


def first_grant_s(upload_bytes: int) -> float:
    """Return what a file may take before its header is known.

    Args:
        upload_bytes: its length; reading a long header costs.
    """
    return (
        ORDINARY_OPENING_S
        + FACTOR * OPENING[PixelCoding.NATIVE].per_megabyte_s * upload_bytes * 1e-6
    )


def opening_budget_s(coding: PixelCoding, pixels: int, upload_bytes: int) -> float:
    """Return what decoding a file and preparing it for the network may take.

    Bytes that cannot be codes of so many pixels are metadata, whatever the coding.
    """
    coded_bytes = min(upload_bytes, MOST_CODED_BYTES_PER_PIXEL * pixels)
    rest_s = OPENING[PixelCoding.NATIVE].per_megabyte_s * (upload_bytes - coded_bytes) * 1e-6
    return max(LEAST_S, FACTOR * (OPENING[coding].seconds(pixels, coded_bytes) + rest_s))


def most_opening_budget_s(most_pixels: int, most_upload_bytes: int) -> float:
    """Return the largest budget that `opening_budget_s` gives within these limits."""
    return max(opening_budget_s(coding, most_pixels, most_upload_bytes) for coding in PixelCoding)


def rendering_budget_s(pixels: int, masks: int, wants_overlay: bool) -> float:
    """Return what making and rendering the answer may take.

    Args:
        pixels: pixels of the X-ray.
        masks: masks of it, each of that size.
        wants_overlay: whether an overlay is drawn.
    """
    overlay_s = OVERLAY.seconds(pixels) if wants_overlay else 0.0
    return max(LEAST_S, FACTOR * (masks * MASK.seconds(pixels) + overlay_s))
