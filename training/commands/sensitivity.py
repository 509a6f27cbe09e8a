"""``sensitivity``: the loss of each layer when it alone is quantized."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("subject", type=Path, help="stored float model, run or checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument(
        "--per-source", type=int, default=8, metavar="N",
        help="X-rays of each data set to measure on, evenly spread; 0 takes all",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=int, default=8, metavar="N",
        help="X-rays of each data set of `train` that set the activation scales",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("sensitivity.csv"), help="the table")
    parser.add_argument(
        "--dice-margin", type=float, help="shown beside the table; default: stage2's"
    )
    parser.add_argument(
        "--ssim-margin", type=float, help="shown beside the table; default: stage2's"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the CSV and print the table; return 0.

    Raises:
        ArtifactError: The stored model is refused.
        CheckpointError: The run cannot be used, or is already quantized.
        ConfigError: A number is out of range.
        DataError: The data set cannot be used.
    """
    from model_store.predictor import choose_device
    from training.adapters.adapted_model import find_layers
    from training.data.dataset import load_xrays, read_rows
    from training.data.row_choice import spread
    from training.errors import CheckpointError, ConfigError
    from training.quantization.config import QatConfig
    from training.quantization.fake_quantization import FakeQuantized
    from training.quantization.sensitivity.measurement import measure_sensitivity
    from training.quantization.sensitivity.table import format_table, write_table
    from training.stages.base import load_base

    if arguments.per_source < 0 or arguments.calibration < 1:
        raise ConfigError("--per-source is at least 0 and --calibration at least 1")
    base = load_base(arguments.subject)
    if find_layers(base.model, FakeQuantized):
        raise CheckpointError(f"{arguments.subject} is quantized already; give what it came from")
    calibration = spread(read_rows(arguments.data, "train"), arguments.calibration)
    rows = spread(read_rows(arguments.data, arguments.split), arguments.per_source)
    table = measure_sensitivity(
        base.model.to(choose_device(arguments.device)), load_xrays(calibration), load_xrays(rows),
        base.architecture.input_size, _show,
    )  # fmt: skip
    write_table(arguments.out, table)
    plain = QatConfig()
    dice_margin, ssim_margin = arguments.dice_margin, arguments.ssim_margin
    print(format_table(
        table,
        plain.dice_margin if dice_margin is None else dice_margin,
        plain.ssim_margin if ssim_margin is None else ssim_margin,
    ))  # fmt: skip
    print(f"{arguments.out}: {len(rows)} X-rays of {arguments.split}, both boxes; "
          f"scales from {len(calibration)} of train")  # fmt: skip
    return 0


def _show(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\rmeasured {done} of {total}", end=end, file=sys.stderr, flush=True)
