"""Processor time of opening and rendering ordinary X-rays, and the table of costs from it.

`python -m benchmarks.service.image_costs [--sides 1024 2048] [--repeats 2]` reads X-rays of every
codec with low and high noise. It prints the time of each, the straight line above those of a codec
(the table in `service/workers/costs.py`), and the share of its budget that the most expensive X-ray
uses. The exit code is 1 if an X-ray uses more than half of its budget in that table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.processor import processor_name
from benchmarks.service.honest_files import honest_files, xray_12_bit
from model_store.grey_levels import grey_histogram
from model_store.pictures.picture_errors import PictureError
from model_store.pictures.picture_reading import read_picture
from model_store.pictures.pixel_coding import PixelCoding
from model_store.postprocessing import MaskLogits, mask_from
from model_store.prediction import PredictionRequest
from model_store.preprocessing import prepare
from service.imaging.mask_checks import check_image, check_mask
from service.imaging.png_encoding import encode_png
from service.imaging.rendering import encode_mask_png, encode_rle, overlay_colours
from service.workers.costs import Cost, opening_budget_s, rendering_budget_s

INPUT_SIDE = 256
MOST_SHARE = 0.5


@dataclass(frozen=True)
class Measured:
    """The cost of one X-ray.

    Attributes:
        name: format and content.
        codec: compression of its pixels.
        pixels: number of pixels.
        size_bytes: length of the file.
        cpu_s: processor time of opening the file, seconds.
    """

    name: str
    codec: PixelCoding
    pixels: int
    size_bytes: int
    cpu_s: float

    @property
    def share(self) -> float:
        """Share of its budget that the X-ray uses."""
        return self.cpu_s / opening_budget_s(self.codec, self.pixels, self.size_bytes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        0, or 1 when an X-ray uses more than half of a budget.
    """
    parser = argparse.ArgumentParser(prog="image_costs")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args(arguments)
    print(f"on {processor_name()}\n")
    opened = measure_opening(options.sides, options.repeats)
    rendered = [rendering_share(side, options.repeats) for side in options.sides]
    worst = max([each.share for each in opened] + rendered)
    print(f"\nlargest share of a budget: {worst:.2f}")
    print(json.dumps({"largest_share": round(worst, 3)}))
    return 0 if worst <= MOST_SHARE else 1


def measure_opening(sides: Sequence[int], repeats: int) -> list[Measured]:
    """Open X-rays of every codec; print their costs and the lines that cover them."""
    measured = []
    for side in sides:
        for file in honest_files(side):
            try:
                cpu_s = _cpu_s(lambda data=file.data: _open(data), repeats)  # type: ignore[misc]
            except PictureError as error:
                print(f"{file.name}: not read ({error.code})", file=sys.stderr)
                continue
            found = Measured(file.name, file.codec, file.pixels, len(file.data), cpu_s)
            print(
                f"{found.name:28s} {found.pixels / 1e6:6.2f} MP {found.size_bytes / 1e6:7.2f} MB "
                f"{found.cpu_s:7.3f} s, share of its budget {found.share:.2f}"
            )
            measured.append(found)
    print("\n    codec: Cost(base, per megapixel, per megabyte)")
    for codec in PixelCoding:
        rows = [each for each in measured if each.codec is codec]
        if rows:
            cost = covering_line(rows)
            print(
                f"    PixelCoding.{codec.name}: Cost("
                f"{cost.base_s:.4f}, {cost.per_megapixel_s:.4f}, {cost.per_megabyte_s:.4f}),"
            )
    return measured


def covering_line(rows: Sequence[Measured]) -> Cost:
    """Return the line with the smallest relative error, raised until it covers every row."""
    from scipy.optimize import nnls

    design = np.array([[1.0, each.pixels * 1e-6, each.size_bytes * 1e-6] for each in rows])
    taken = np.array([each.cpu_s for each in rows])
    factors, _ = nnls(design / taken[:, None], np.ones(len(rows)))
    raised = factors * max(1.0, float((taken / (design @ factors)).max()))
    return Cost(*(float(each) for each in raised))


def rendering_share(side: int, repeats: int) -> float:
    """Render masks and an overlay; print the cost, and return the used share of the budget."""
    pixels = xray_12_bit(side, noise=60.0)
    rng = np.random.default_rng(side)
    logits = rng.normal(0.0, 1.0, (64, 64)).astype(np.float32)  # ragged: the dearest to compress
    whole = (0.0, 0.0, float(side), float(side))
    geometry = prepare(PredictionRequest(pixels), INPUT_SIDE, grey_histogram(pixels)).geometry

    def make_mask() -> None:
        found = mask_from(MaskLogits(whole, logits, 1.0), geometry, 0.5)
        check_mask(found)
        encode_mask_png(found.mask)
        encode_rle(found.mask)

    found = mask_from(MaskLogits(whole, logits, 1.0), geometry, 0.5)
    mask_s = _cpu_s(make_mask, repeats)
    overlay_s = _cpu_s(
        lambda: len(encode_png(overlay_colours(pixels, [found.mask], [whole]))), repeats
    )
    share = (mask_s + overlay_s) / rendering_budget_s(side * side, 1, wants_overlay=True)
    print(
        f"{side} x {side}: {mask_s:.3f} s a mask, {overlay_s:.3f} s for the overlay, "
        f"share of their budget {share:.2f}"
    )
    return share


def _open(data: bytes) -> None:
    picture = read_picture(data, max_pixels=1 << 30)
    histogram = grey_histogram(picture.pixels)
    prepare(PredictionRequest(picture.pixels), INPUT_SIDE, histogram)
    check_image(histogram)


def _cpu_s(work: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of the work, after one run to warm up."""
    work()
    taken = []
    for _ in range(repeats):
        began_s = time.process_time()
        work()
        taken.append(time.process_time() - began_s)
    return sorted(taken)[len(taken) // 2]


if __name__ == "__main__":
    sys.exit(main())
