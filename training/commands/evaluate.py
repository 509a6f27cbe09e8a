"""``evaluate``: how good a stored model is, per data set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a stored model")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N",
        help="X-rays of each source to measure on, evenly spread; 0 takes all",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--surface", action="store_true", help="also NSD, HD95 and ASSD")
    parser.add_argument("--ssim", action="store_true", help="also SSIM of INT8 against FP32 maps")
    parser.add_argument("--jitter", action="store_true", help="also Dice against box jitter")
    parser.add_argument("--full", action="store_true", help="all of them")
    parser.add_argument(
        "--margin", type=float, default=0.002, help="margin of the equivalence test, in Dice"
    )
    parser.add_argument("--json", type=Path, help="also write the scores of every image here")
    parser.add_argument("--store", action="store_true", help="write the table into the manifest")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the tables and write the requested files; return 0.

    Raises:
        ArtifactError: The stored model is refused.
        ConfigError: ``--limit`` is negative, or given with ``--store``.
        DataError: The data set cannot be used.
    """
    from model_store.predictor import Predictor
    from training.data.dataset import read_rows, rows_of_conventions
    from training.data.row_choice import check_whole, limited
    from training.evaluation.evaluation import (
        EvaluationOptions,
        evaluate,
        evaluation_to_json,
        load_float_twin,
        store_evaluation,
    )
    from training.evaluation.text import format_evaluation
    from training.evaluation.watching import progress_bar

    check_whole(arguments.limit, stores=arguments.store)
    predictor = Predictor.load(arguments.model, arguments.device)
    twin = load_float_twin(arguments.model, predictor, arguments.device)
    known = predictor.info.manifest.conventions
    rows = rows_of_conventions(read_rows(arguments.data, arguments.split), known)
    rows = limited(rows, arguments.limit)
    options = EvaluationOptions(
        surface=arguments.surface or arguments.full,
        similarity=arguments.ssim or arguments.full,
        jitter=arguments.jitter or arguments.full,
        margin=arguments.margin,
    )
    found = evaluate(predictor, twin, rows, options, progress_bar)
    print(format_evaluation(found))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(evaluation_to_json(found)), encoding="utf-8")
    if arguments.store:
        store_evaluation(arguments.model, predictor, arguments.split, found)
    return 0
