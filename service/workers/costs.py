"""Limits on a task's CPU time: three times the need of ordinary X-rays.

`python -m benchmarks.service.image_costs` measures the figures: it fits a line to the ordinary
files of each coding and prints how far the most expensive one is from it. The factor of three
covers slower processors and unforeseen files. No X-ray of any known device or viewer reaches it.

The front knows only a file's length, so `first_grant_s` covers ordinary X-rays. After reading the
header the worker knows coding and size (`before_decoding` of `read_picture`) and states the need
(`Task.needs_cpu`), which is usually less than granted. If it is more, the task waits again as a
costly one; costly tasks get at most half of the workers.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_store.pictures.pixel_coding import PixelCoding

FACTOR = 3.0
LEAST_S = 0.5
"""Smallest budget: the kernel counts in ticks, and the first use of a library costs more."""

ORDINARY_OPENING_S = 1.5
"""Budget of ordinary X-rays: 4 megapixels of every coding but JPEG 2000, and 9 megapixels of PNG.
With 3 s, X-rays of 40 megapixels were ordinary, and everybody waited behind eight callers with
these."""

ORDINARY_RENDERING_S = 2.5
"""Budget of ordinary answers: a mask and an overlay of 10 megapixels."""


@dataclass(frozen=True)
class Cost:
    """CPU time of ordinary work, as a linear function.

    Attributes:
        base_s: seconds at any size.
        per_megapixel_s: seconds for each million pixels.
        per_megabyte_s: seconds for each million bytes in the file.
    """

    base_s: float
    per_megapixel_s: float
    per_megabyte_s: float

    def seconds(self, pixels: int, size_bytes: int = 0) -> float:
        """Return the CPU time for a number of pixels and bytes."""
        per_pixel = self.per_megapixel_s * pixels * 1e-6
        return self.base_s + per_pixel + self.per_megabyte_s * size_bytes * 1e-6


OPENING = {
    PixelCoding.NATIVE: Cost(0.0024, 0.0050, 0.0071),
    PixelCoding.DEFLATE: Cost(0.0077, 0.0190, 0.0362),
    PixelCoding.RLE: Cost(0.0027, 0.0050, 0.0147),
    PixelCoding.JPEG: Cost(0.0029, 0.0137, 0.0702),
    PixelCoding.JPEG_SCANS: Cost(0.6, 0.0137, 0.0702),
    PixelCoding.JPEG_LOSSLESS: Cost(0.0037, 0.0400, 0.0216),
    PixelCoding.JPEG_LS: Cost(0.0035, 0.0313, 0.0267),
    PixelCoding.JPEG_2000: Cost(0.0156, 0.0325, 0.2013),
}
"""Costs of decoding and preparing for the network. No device writes `JPEG_SCANS`, so it is not
measured: its base, 150 scans of 3 megapixels (1.3 ms each), makes it costly at any size."""

MOST_CODED_BYTES_PER_PIXEL = 16
"""Four channels of 16 bits, and as much again for codes that are longer than what they code."""

MASK = Cost(0.0050, 0.0080, 0.0)
"""Cost of making one mask and rendering it."""

OVERLAY = Cost(0.0050, 0.0700, 0.0)
"""Cost of drawing and compressing the overlay."""


def first_grant_s(upload_bytes: int) -> float:
    """Return the limit for a file before its header is known.

    Args:
        upload_bytes: length of the file; reading a long header takes time.
    """
    return (
        ORDINARY_OPENING_S
        + FACTOR * OPENING[PixelCoding.NATIVE].per_megabyte_s * upload_bytes * 1e-6
    )


def opening_budget_s(coding: PixelCoding, pixels: int, upload_bytes: int) -> float:
    """Return the limit for decoding a file and preparing it for the network.

    Bytes beyond the most that the pixels can have are metadata, in any coding.
    """
    coded_bytes = min(upload_bytes, MOST_CODED_BYTES_PER_PIXEL * pixels)
    rest_s = OPENING[PixelCoding.NATIVE].per_megabyte_s * (upload_bytes - coded_bytes) * 1e-6
    return max(LEAST_S, FACTOR * (OPENING[coding].seconds(pixels, coded_bytes) + rest_s))


def most_opening_budget_s(most_pixels: int, most_upload_bytes: int) -> float:
    """Return the largest budget that `opening_budget_s` gives within these limits."""
    return max(opening_budget_s(coding, most_pixels, most_upload_bytes) for coding in PixelCoding)


def rendering_budget_s(pixels: int, masks: int, wants_overlay: bool) -> float:
    """Return the limit for making and rendering the answer.

    Args:
        pixels: pixels of the X-ray.
        masks: number of masks, each of that size.
        wants_overlay: whether an overlay is drawn.
    """
    overlay_s = OVERLAY.seconds(pixels) if wants_overlay else 0.0
    return max(LEAST_S, FACTOR * (masks * MASK.seconds(pixels) + overlay_s))
