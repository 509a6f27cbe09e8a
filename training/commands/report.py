"""``report``: one self-contained HTML page about a stored model or a run."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("subject", type=Path, help="folder of a stored model or of a run")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page")
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N",
        help="X-rays of each source to measure on, evenly spread; 0 takes all",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--store", action="store_true", help="write the numbers into the stored model's manifest"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, draw and write the page; return 0.

    Raises:
        ArtifactError: The stored model is refused.
        ConfigError: ``--limit`` is negative, or given with ``--store``.
        CheckpointError: The run cannot be used, or ``--store`` was given with a run.
        DataError: The data set cannot be used.
    """
    from training.data.dataset import read_rows, rows_of_conventions
    from training.data.row_choice import check_whole, limited
    from training.errors import CheckpointError
    from training.evaluation.evaluation import EvaluationOptions, evaluate, store_evaluation
    from training.evaluation.watching import progress_bar
    from training.report.page import render_report
    from training.report.subject import open_subject

    check_whole(arguments.limit, stores=arguments.store)
    rows = read_rows(arguments.data, arguments.split)
    options = EvaluationOptions(surface=True, similarity=True, jitter=True, bf16=False)
    with tempfile.TemporaryDirectory() as work:
        subject = open_subject(arguments.subject, arguments.data, arguments.device, Path(work))
        if arguments.store and subject.run is not None:
            raise CheckpointError(f"{arguments.subject} is a run; --store needs a stored model")
        rows = rows_of_conventions(rows, subject.predictor.info.manifest.conventions)
        rows = limited(rows, arguments.limit)
        found = evaluate(subject.predictor, subject.twin, rows, options, progress_bar)
        page = render_report(subject, rows, arguments.split, found)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page, encoding="utf-8")
    if arguments.store:
        store_evaluation(arguments.subject, subject.predictor, arguments.split, found)
    print(f"{arguments.out}: {len(page) / 1e6:.1f} MB, {len(rows)} X-rays of {arguments.split}")
    return 0
