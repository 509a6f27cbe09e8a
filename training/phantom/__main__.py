"""Write one phantom as a PNG file.

python -m training.phantom --seed 7 --size 1024 --out examples/phantom.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from training.phantom.drawing import draw_phantom


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one phantom as a PNG file.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description="Draw a chest phantom into a PNG file.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--size", type=int, default=1024, help="height and width in pixels")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    phantom = draw_phantom(options.seed, (options.size, options.size))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(phantom.image).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
