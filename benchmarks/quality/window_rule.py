"""How often the window of a DICOM header is applied where it should be, and where it should not.

`python -m benchmarks.quality.window_rule --data DATA [--split val]` stores every X-ray of a split
as a DICOM file of 16 bits, with the anatomy in 0..4095. The windows are as wide as modalities write
them, or narrower; some files also get a white border at 65535. An X-ray without a border must not
be clipped. A border must be clipped, because otherwise the anatomy would get only a sixteenth of
the grey levels. The exit code is 1 if an X-ray without a border is clipped to a window that spans
at least 90 % of its pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from model_store.pictures.dicom_grey import to_monochrome2
from model_store.pictures.dicom_layout import PixelLayout
from model_store.pictures.picture_warnings import PictureWarningCode
from training.data.dataset import read_rows
from training.data.xray_files import read_xray

ANATOMY_MOST, WHITE = 4095, 65_535
WINDOWS = (("whole range", 0.0, 100.0, 1.0), ("1 to 99 %", 1.0, 99.0, 1.0),
           ("5 to 95 %", 5.0, 95.0, 1.0), ("10 to 90 %", 10.0, 90.0, 1.0),
           ("half of 1 to 99 %", 1.0, 99.0, 0.5))  # fmt: skip
"""Lower and upper percentile that a window spans, and the share of that width that it keeps."""
LEAST_SPAN = 90.0
BORDERS = (0.0, 0.03, 0.08)
"""Width of a white border, as a share of the X-ray's side; 0 for none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        Exit code of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    asked = parser.parse_args(arguments)
    xrays = [_twelve_bits(row.image_path) for row in read_rows(asked.data, asked.split)]
    table: dict[str, dict[str, int]] = {}
    for name, low, high, share in WINDOWS:
        table[name] = {
            f"border {border:.0%}": sum(
                is_clipped(one, (low, high, share), border) for one in xrays
            )
            for border in BORDERS
        }
    print(f"{len(xrays)} X-rays of {asked.split}: how many are clipped to their window")
    print(f"{'window':<20}" + "".join(f"{f'border {border:.0%}':>12}" for border in BORDERS))
    for name, found in table.items():
        print(f"{name:<20}" + "".join(f"{count:>12}" for count in found.values()))
    print(json.dumps({"xrays": len(xrays), **table}))
    wide = [name for name, low, high, share in WINDOWS if (high - low) * share >= LEAST_SPAN]
    return int(any(table[name][f"border {0:.0%}"] for name in wide))


def is_clipped(
    pixels: NDArray[np.uint16], window: tuple[float, float, float], border: float
) -> bool:
    """Tell whether an X-ray is clipped to a window.

    Args:
        pixels: values of 0..4095, (H, W).
        window: lower and upper percentile, and the share of the width between them.
        border: width of a white border, as a share of the longer side.
    """
    low, high, share = window
    first, last = np.percentile(pixels, (low, high))
    header = Dataset()
    header.WindowCenter, header.WindowWidth = (first + last) / 2, max((last - first) * share, 1.0)
    stored = pixels.copy()
    edge = round(border * max(stored.shape))
    if edge:
        stored[:edge] = stored[-edge:] = stored[:, :edge] = stored[:, -edge:] = WHITE
    rows, columns = stored.shape
    layout = PixelLayout(rows, columns, 1, 16, 16, 15, False, "MONOCHROME2")
    _, warnings = to_monochrome2(stored, layout, header)
    return any(one.code is PictureWarningCode.WINDOW_APPLIED for one in warnings)


def _twelve_bits(path: Path) -> NDArray[np.uint16]:
    grey = read_xray(path).upright.astype(np.float64)
    lowest, highest = grey.min(), grey.max()
    return np.asarray((grey - lowest) / (highest - lowest) * ANATOMY_MOST, np.uint16)


if __name__ == "__main__":
    sys.exit(main())
