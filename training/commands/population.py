"""``population``: a stored model's numbers over many X-rays, written into its manifest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_store.predictor import Predictor
    from training.data.dataset import DataRow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a stored model")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument(
        "--count", type=int, default=150, help="X-rays of each data set that trained, evenly spread"
    )
    parser.add_argument("--split", default="test", choices=("val", "test"), help="for the groups")
    parser.add_argument(
        "--children", nargs="*", default=["kermany"], help="data sets that show children"
    )
    parser.add_argument(
        "--unlabelled", type=Path, help="folder with images/ and manifest.csv: name, projection"
    )
    parser.add_argument(
        "--only", choices=("distributions", "groups"), help="one of the two, for a short run"
    )
    parser.add_argument("--store", action="store_true", help="write into manifest and card")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def run(arguments: argparse.Namespace) -> int:
    """Segment, print the distributions and write them if requested; return 0.

    Raises:
        ArtifactError: The stored model is refused.
        DataError: The data set cannot be used.
    """
    from model_store.artifact import read_manifest
    from model_store.predictor import Predictor
    from training.data.dataset import read_rows, rows_of_conventions
    from training.evaluation.population import distributions, groups, segment_row
    from training.model_card import render_groups, write_manifest_and_card

    predictor = Predictor.load(arguments.model, arguments.device)
    known = predictor.info.manifest.conventions
    trained, judged = (
        rows_of_conventions(read_rows(arguments.data, split), known)
        for split in ("train", arguments.split)
    )
    manifest = read_manifest(arguments.model)
    update: dict[str, Any] = {}
    if arguments.only != "groups":
        spread = distributions(
            [segment_row(predictor, row) for row in _spread(trained, arguments.count)]
        )
        update["training_distributions"] = spread
        for name, one in spread.items():
            print(f"{name}: n {one.n}, mean {one.mean}, SD {one.deviation}, {one.quantiles}")
    if arguments.only != "distributions":
        lines = groups([segment_row(predictor, row) for row in judged], arguments.children)
        if arguments.unlabelled is not None:
            lines += _views(predictor, arguments.unlabelled)
        print(render_groups(arguments.split, lines))
        of_split = {**manifest.evaluation.get(arguments.split, {}), "groups": lines}
        update["evaluation"] = {**manifest.evaluation, arguments.split: of_split}
    if arguments.store:
        write_manifest_and_card(arguments.model, manifest.model_copy(update=update))
    return 0


def _spread(rows: Sequence[DataRow], count: int) -> list[DataRow]:
    """Return up to a number of rows of each data set, evenly spread."""
    by_source: dict[str, list[DataRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    chosen = []
    for members in by_source.values():
        step = max(1.0, len(members) / count)
        chosen += [members[int(n * step)] for n in range(min(count, len(members)))]
    return chosen


def _views(predictor: Predictor, folder: Path) -> list[dict[str, Any]]:
    """Return a line for each projection and convention of X-rays that nobody annotated."""
    from model_store.conventions import CONVENTIONS
    from model_store.geometry import window_to_uint8
    from training.data.unlabelled import read_unlabelled
    from training.data.xray_files import read_xray
    from training.evaluation.population import SegmentedXray, group_of, segment_xray

    known = [one for one in CONVENTIONS if one in predictor.info.manifest.conventions]
    found: dict[str, list[SegmentedXray]] = {}
    for xray in read_unlabelled(folder, ("projection",)):
        image = window_to_uint8(read_xray(xray.path).upright)
        for convention in known:
            view = xray.projection or "view unknown"
            name = f"{view}, `{convention}`, nobody annotated"
            segmented = segment_xray(predictor, image, convention, folder.name, xray.patient)
            found.setdefault(name, []).append(segmented)
    return [group_of(name, members) for name, members in sorted(found.items())]
