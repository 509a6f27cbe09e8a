"""``conventions``: list masks annotated in another convention than their data set states."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a stored model that "
                        "was not trained on these X-rays")  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument("--folds", type=int, default=1, help="parts into which patients fall")
    parser.add_argument(
        "--fold", type=int, default=0, help="the part to look at, as that which the model "
        "never saw when it was trained with data.without_fold; needs --folds",
    )  # fmt: skip
    parser.add_argument(
        "--margin", type=float, help="Dice by which another convention must agree better; 0.02",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="CSV of every X-ray with its Dice in each")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def run(arguments: argparse.Namespace) -> int:
    """Predict, print the table and write the CSV; return 0.

    Raises:
        ArtifactError: The stored model is refused.
        ConfigError: The margin or the fold is out of range, or the model knows one convention only.
        DataError: The data set cannot be used.
    """
    from model_store.embedding_cache import EmbeddingCache
    from model_store.predictor import Predictor
    from training.data.dataset import fold_of, read_rows, rows_of_conventions
    from training.errors import ConfigError
    from training.evaluation.convention_mismatch import (
        MARGIN,
        agreements,
        format_agreements,
        write_agreements,
    )

    margin = MARGIN if arguments.margin is None else arguments.margin
    if not 0 < margin < 1:
        raise ConfigError(f"--margin is {margin}; it must lie between 0 and 1")
    if not 0 <= arguments.fold < arguments.folds:
        raise ConfigError(f"--fold {arguments.fold} is not one of --folds {arguments.folds}")
    one_xray = EmbeddingCache(64 * 1024 * 1024)
    predictor = Predictor.load(arguments.model, arguments.device, one_xray)
    known = predictor.info.manifest.conventions
    if len(known) < 2:
        raise ConfigError(
            f"{arguments.model} knows {next(iter(known))} only; two are to be compared"
        )
    rows = rows_of_conventions(read_rows(arguments.data, arguments.split), known)
    rows = [row for row in rows if fold_of(row.group, arguments.folds) == arguments.fold]
    found = list(agreements(predictor, rows))
    print(format_agreements(found, margin))
    if arguments.out is not None:
        write_agreements(arguments.out, found, margin)
    return 0
