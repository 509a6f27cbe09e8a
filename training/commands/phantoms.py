"""``phantoms``: a data set of synthetic chest phantoms."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--train", type=int, default=64, help="phantoms to train on")
    parser.add_argument("--val", type=int, default=16, help="phantoms to choose by")
    parser.add_argument("--test", type=int, default=16, help="phantoms to measure on")


def run(arguments: argparse.Namespace) -> int:
    """Write the data set; return 0."""
    from training.phantom.dataset import write_phantom_dataset

    counts = {"train": arguments.train, "val": arguments.val, "test": arguments.test}
    write_phantom_dataset(arguments.out, counts)
    print(f"{sum(counts.values())} phantoms in {arguments.out}")
    return 0
