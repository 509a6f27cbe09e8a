"""``import-reference``: the checkpoint of the reference work as stored models of ours."""

from __future__ import annotations

import argparse
from pathlib import Path

from model_store.conventions import CONVENTIONS, DEFAULT_CONVENTION


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help="best_model_stage2_int8.pth")
    parser.add_argument("--out", type=Path, required=True, help="folder of stored models")
    parser.add_argument("--name", default="reference-vit-b", help="name of the integer model")
    parser.add_argument("--version", default="1", help="version, a whole number")
    parser.add_argument(
        "--convention", default=DEFAULT_CONVENTION, choices=CONVENTIONS,
        help="how the masks were annotated that it was trained on",
    )  # fmt: skip
    parser.add_argument("--license", help="licence of the weights, for the manifest")
    parser.add_argument("--alpha", type=float, default=32.0, help="lora_alpha of its training")
    parser.add_argument("--target-rank", type=int, default=32, help="target_rank of its training")
    parser.add_argument(
        "--data", type=Path, help="data set whose train split sets activation scales (phantoms)"
    )
    parser.add_argument("--calibrate", type=int, default=8, help="pictures that set them")


def run(arguments: argparse.Namespace) -> int:
    """Write both models and print where they are; return 0.

    Raises:
        CheckpointError: The file is not the reference's.
        ConfigError: A rank or a count below 1.
        DataError: The data set for calibration cannot be used.
        FileExistsError: The version exists.
    """
    from training.errors import ConfigError
    from training.reference.checkpoint import load_reference
    from training.reference.deployment import (
        UNKNOWN_LICENSE,
        calibration_pictures,
        deploy_reference,
    )

    if arguments.target_rank < 1 or arguments.calibrate < 1:
        raise ConfigError("--target-rank and --calibrate are at least 1")
    reference = load_reference(arguments.checkpoint, arguments.alpha, arguments.target_rank)
    pictures = calibration_pictures(arguments.calibrate, arguments.convention, arguments.data)
    whole, integers = deploy_reference(
        reference, arguments.checkpoint, arguments.out, name=arguments.name,
        version=arguments.version, convention=arguments.convention,
        license_text=arguments.license or UNKNOWN_LICENSE, pictures=pictures,
    )  # fmt: skip
    for result in (whole, integers):
        print(f"{result.folder}: {result.size_bytes / 1e6:.2f} MB, Dice of its golden mask on the "
              f"phantom {result.golden_dice:.4f}")  # fmt: skip
    return 0
