"""``graphs``: a stored model as ONNX or OpenVINO graphs, and how far their masks differ."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a stored model")
    parser.add_argument(
        "--format", required=True, choices=("onnx", "openvino"),
        help="onnx: float models; openvino: the stored integers too",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for encoder and decoder")
    parser.add_argument("--data", type=Path, help="also compare masks on X-rays of this data set")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument(
        "--limit", type=int, default=13, metavar="N",
        help="X-rays of each source to compare, evenly spread; 0 takes all (13)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Write the graphs, compare masks if data are given; return 0.

    Raises:
        ArtifactError: The stored model is refused.
        ConfigError: The model cannot be written in this format, or the folder already has graphs.
        DataError: The data set cannot be used.
    """
    from model_store.artifact import load_model
    from training.graphs import write_graphs

    model, manifest = load_model(arguments.model)
    model.requires_grad_(False)
    size = int(manifest.architecture["input_size"])
    write_graphs(model, size, arguments.format, arguments.out)
    names = ", ".join(sorted(path.name for path in arguments.out.iterdir()))
    print(f"{arguments.out}: {names}")
    if arguments.data is not None:
        _compare(arguments)
    return 0


def _compare(arguments: argparse.Namespace) -> None:
    import numpy as np

    from model_store.predictor import PredictionRequest, Predictor
    from training.data.dataset import load_xray, read_rows, rows_of_conventions
    from training.data.row_choice import limited
    from training.evaluation.metrics import dice
    from training.evaluation.scores import prompt_boxes
    from training.evaluation.watching import progress_bar
    from training.graphs import GraphRunner

    predictor = Predictor.load(arguments.model, "cpu")
    size = predictor.info.input_size
    runner = GraphRunner.load(predictor.model, size, arguments.format, arguments.out)
    rows = read_rows(arguments.data, arguments.split)
    known = predictor.info.manifest.conventions
    rows = limited(rows_of_conventions(rows, known), arguments.limit)
    equal, dices = [], []
    for row in progress_bar(rows, "masks"):
        xray = load_xray(row)
        box = prompt_boxes(xray)[0]
        request = PredictionRequest(xray.image, (box,), row.convention)
        ours, theirs = predictor.predict(request).masks[0].mask, runner.mask(xray, box)
        equal.append(float((ours == theirs).mean()))
        dices.append(dice(theirs, ours))
    print(
        f"{len(rows)} X-rays of {arguments.split}: equal pixels {np.mean(equal):.6f}, least "
        f"{min(equal):.6f}; Dice of the masks {np.mean(dices):.6f}, least {min(dices):.6f}"
    )
