"""``ptq``: a stored model without quantization-aware training, for comparison in its card."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model_store.predictor import Predictor
    from training.data.dataset import DataRow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a stored model")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N",
        help="X-rays of each source to measure on, evenly spread; 0 takes all",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=int, default=12, metavar="N",
        help="X-rays of each data set of `train` that GPTQ sees",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--store", action="store_true", help="write it into manifest and card")


def run(arguments: argparse.Namespace) -> int:
    """Round the float twin by GPTQ, measure both models, print and store; return 0.

    Raises:
        ArtifactError: The stored model or its twin is refused.
        ConfigError: The model has no integers or no twin, a number is out of range, or ``--limit``
            is given with ``--store``.
        DataError: The data set cannot be used.
    """
    import tempfile

    from model_store.artifact import read_manifest
    from model_store.predictor import Predictor
    from training.data.dataset import read_rows, rows_of_conventions
    from training.data.row_choice import check_whole, limited, spread
    from training.errors import ConfigError
    from training.evaluation.evaluation import POST_TRAINING, store_post_training
    from training.evaluation.scores import score_rows
    from training.evaluation.tables import compare_models, summarise
    from training.evaluation.text import format_comparison, format_table
    from training.evaluation.watching import progress_bar

    check_whole(arguments.limit, stores=arguments.store)
    if arguments.calibration < 1:
        raise ConfigError(f"--calibration is {arguments.calibration}; it must be at least 1")
    predictor = Predictor.load(arguments.model, arguments.device)
    manifest = predictor.info.manifest
    if manifest.float_twin is None or "int8" not in manifest.quantization.layers.values():
        raise ConfigError(f"{arguments.model} has no integers, or no float twin to round")
    twin = arguments.model.resolve().parent.parent / manifest.float_twin
    read_manifest(twin)  # refused before anything is computed
    known = manifest.conventions
    rows = limited(
        rows_of_conventions(read_rows(arguments.data, arguments.split), known), arguments.limit
    )
    seen = spread(
        rows_of_conventions(read_rows(arguments.data, "train"), known), arguments.calibration
    )
    label = predictor.info.precision
    scores = score_rows(predictor, label, rows, watch=progress_bar)
    with tempfile.TemporaryDirectory() as work:
        levels = max(manifest.quantization.weight_levels.values(), default=127)
        rounded = _rounded(twin, seen, levels, Path(work), arguments.device)
        scores += score_rows(rounded, POST_TRAINING, rows, watch=progress_bar)
    table, comparison = summarise(scores), compare_models(scores, label, POST_TRAINING)
    print(format_table(table))
    print()
    print(format_comparison(comparison, label, POST_TRAINING))
    if arguments.store:
        store_post_training(arguments.model, manifest, arguments.split, table, comparison)
    return 0


def _rounded(twin: Path, seen: list[DataRow], levels: int, work: Path, device: str) -> Predictor:
    """Return the twin in integers of this number of levels, stored and loaded as any model."""
    from model_store.conventions import CONVENTIONS
    from model_store.predictor import Predictor
    from training.data.dataset import load_xrays
    from training.export import write_deployed
    from training.quantization.calibration import round_by_xrays
    from training.stages.base import load_base

    base = load_base(twin)
    round_by_xrays(base.model, load_xrays(seen), base.architecture.input_size, levels)
    write_deployed(base.model, base.architecture, work, name="ptq", version="1",
                   conventions=[one for one in CONVENTIONS if one in base.conventions])  # fmt: skip
    return Predictor.load(work / "ptq" / "1", device)
