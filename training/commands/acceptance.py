"""``acceptance``: test a stored model against a hospital's margins on the hospital's X-rays."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXIT_FAILED = 1
"""Exit status of a failed acceptance."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a stored model")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N",
        help="X-rays of each source to measure on, evenly spread; 0 takes all",
    )  # fmt: skip
    parser.add_argument("--mean", type=float, default=0.95, help="least mean Dice (0.95)")
    parser.add_argument("--poor", type=float, default=0.90, help="Dice of a poor mask (0.90)")
    parser.add_argument(
        "--poor-share", type=float, default=0.10,
        help="largest share of patients with a poor mask (0.10)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("acceptance.html"), help="the page")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def run(arguments: argparse.Namespace) -> int:
    """Measure and write the page; return 0 for a pass, 1 for a fail.

    Raises:
        ArtifactError: The stored model is refused.
        ConfigError: A margin or the limit is out of range.
        DataError: The data set cannot be used.
    """
    from model_store.predictor import Predictor
    from training.data.checks import check_manifest
    from training.data.dataset import rows_of, rows_of_conventions
    from training.data.manifest_file import read_manifest
    from training.data.row_choice import limited
    from training.evaluation.acceptance import Margins, judge
    from training.evaluation.scores import score_rows
    from training.evaluation.watching import progress_bar
    from training.report.acceptance import render_acceptance, verdict_of

    margins = Margins(arguments.mean, arguments.poor, arguments.poor_share)
    predictor = Predictor.load(arguments.model, arguments.device)
    manifest = read_manifest(arguments.data)
    check_manifest(manifest)
    known = predictor.info.manifest.conventions
    rows = rows_of_conventions(rows_of(manifest, arguments.split), known)
    rows = limited(rows, arguments.limit)
    scores = score_rows(predictor, "model", rows, watch=progress_bar)
    findings = judge(scores, rows, margins)
    page = render_acceptance(predictor, rows, scores, findings, margins)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page, encoding="utf-8")
    for finding in findings:
        low, high = finding.interval or (finding.mean, finding.mean)
        print(
            f"{finding.box}: mean Dice {finding.mean:.4f} ({low:.4f} to {high:.4f}) of "
            f"{finding.patients} patients, {finding.poor} with a mask below {margins.poor:g}, at "
            f"most {finding.poor_share_at_most:.3f} of all: {'pass' if finding.passes else 'fail'}"
        )
    print(f"{verdict_of(findings)}: {arguments.out}")
    sys.stdout.flush()
    return 0 if verdict_of(findings) == "pass" else EXIT_FAILED
