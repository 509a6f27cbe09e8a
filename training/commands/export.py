"""``export``: a stored model from a checkpoint or run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--run", type=Path, required=True, help="checkpoint or run folder")
    parser.add_argument("--name", required=True, help="name of the model, e.g. cxr-lung-tiny")
    parser.add_argument("--version", required=True, help="version, a whole number")
    parser.add_argument("--out", type=Path, default=Path("model_store/models"))
    parser.add_argument(
        "--data", type=Path,
        help="data set that it was trained on; only of checkpoints that do not record it",
    )  # fmt: skip
    parser.add_argument("--float-twin", help="name/version of the model before quantization")
    parser.add_argument(
        "--structure", action="append", default=[], choices=["heart"],
        help="what the model was trained to segment beside the lungs",
    )  # fmt: skip
    parser.add_argument(
        "--quality-head", type=Path, help="folder that `quality-head` wrote for this model"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the model and print its size; return 0.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        DataError: It was not trained on lungs.
        FileExistsError: The version exists.
    """
    from training.export import export_checkpoint

    result = export_checkpoint(
        arguments.run, arguments.out, arguments.name, arguments.version, arguments.data,
        arguments.float_twin, arguments.structure, arguments.quality_head,
    )  # fmt: skip
    share = result.size_bytes / result.float_size_bytes
    print(
        f"{result.folder}: {result.size_bytes / 1e6:.2f} MB, {share:.3f} of the weights in "
        f"float32; Dice of its golden mask on the phantom {result.golden_dice:.4f}"
    )
    return 0
