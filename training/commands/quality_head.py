"""``quality-head``: fit the head that classifies pictures; print its accuracy."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model_store.quality_head import QualityHead

HEAD_FILE = "quality_head.safetensors"
RECORD_FILE = "quality_head.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        help="run or stored model whose embedding is read; a stored model as it is executed",
    )
    parser.add_argument("--data", type=Path, required=True, help="data set of frontal X-rays")
    parser.add_argument(
        "--others", type=Path, required=True, help="folder with train/ and val/, each with "
        "pictures (PNG, JPEG, WebP) of anything but a frontal chest",
    )  # fmt: skip
    parser.add_argument("--also", type=Path, help="a further data set of X-rays")
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {HEAD_FILE}")
    parser.add_argument(
        "--start", type=Path, help="stored model whose head is fitted further: a few thousand "
        "pictures do, where a new head takes tens of thousands",
    )  # fmt: skip
    parser.add_argument(
        "--version", help="write the stored model of --run again as this version, with the head"
    )
    parser.add_argument(
        "--models", type=Path, default=Path("model_store/models"), help="where --version is written"
    )
    parser.add_argument("--count", type=int, default=30_000, help="pictures to fit to")
    parser.add_argument("--val-count", type=int, default=4_000, help="pictures of val")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that make pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def run(arguments: argparse.Namespace) -> int:
    """Fit, choose limits on good X-rays of ``val``, print the table, write the head; return 0.

    Raises:
        ArtifactError: A stored model is refused.
        CheckpointError: The run cannot be read.
        ConfigError: A folder of other pictures is empty, ``--start`` has no head, or the version is
            invalid.
        DataError: The data set cannot be used.
        FileExistsError: The version exists; a stored version never changes.
    """
    from model_store.artifact import read_manifest
    from model_store.quality_head import write_quality_head
    from training.data.dataset import load_xrays, read_rows
    from training.export import check_new_version
    from training.quality.encoding import load_encoder
    from training.quality.fitting import (
        QualityPictures,
        features,
        fit_head,
        head_outputs,
        limits_of,
    )
    from training.quality.storing import store_with_head

    start = None if arguments.start is None else _stored_head(arguments.start)
    if arguments.version is not None:
        check_new_version(arguments.models, read_manifest(arguments.run).name, arguments.version)
    encoder = load_encoder(arguments.run, arguments.device)
    size = encoder.input_size
    rows = read_rows(arguments.data, "train")
    if arguments.also is not None:
        rows += read_rows(arguments.also, "train")
    xrays, val = load_xrays(rows, size), load_xrays(read_rows(arguments.data, "val"), size)
    others, val_others = (_pictures(arguments.others / split) for split in ("train", "val"))
    seed, workers = arguments.seed, arguments.workers
    train = QualityPictures(xrays, others, size, arguments.count, seed)
    head = fit_head(*features(encoder, train, workers), seed, start)
    unchanged = QualityPictures(val, [], size, len(val), seed, good=True)
    good, _, _ = features(encoder, unchanged, workers)
    limits = limits_of(head_outputs(head, good))
    changed = QualityPictures(val, val_others, size, arguments.val_count, seed + 1)
    found, labels, known = features(encoder, changed, workers)
    table = right_share(head_outputs(head, found), labels, known, limits)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sha256 = write_quality_head(arguments.out / HEAD_FILE, head)
    named = (head_outputs(head, good) >= list(limits.values())).any(axis=1)
    record = {
        "fitted": {"pictures": arguments.count, "seed": seed, "further": start is not None},
        "sha256": sha256, "labels": list(head.labels), "limits": limits, "val": table,
        "good X-rays of val": len(good), "of these named": int(named.sum()),
    }  # fmt: skip
    (arguments.out / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print("| label | limit | pictures | named | others | named |\n|---|---|---|---|---|---|")
    for name, row in table.items():
        print(f"| {name} | {limits[name]} | {' | '.join(str(value) for value in row.values())} |")
    print(f"{named.sum()} of {len(good)} good X-rays of val are named anything")
    if arguments.version is not None:
        run, out = arguments.run, arguments.out
        print(store_with_head(run, out, arguments.models, arguments.version))
    return 0


def right_share(
    found: NDArray[np.float64],
    labels: NDArray[np.float32],
    known: NDArray[np.float32],
    limits: dict[str, float],
) -> dict[str, dict[str, float]]:
    """Return for each label how often it is given where it is true, and where it is not."""
    table = {}
    for place, (name, limit) in enumerate(limits.items()):
        certain, said = known[:, place] > 0, found[:, place] >= limit
        true, untrue = certain & (labels[:, place] > 0), certain & (labels[:, place] == 0)
        table[name] = {
            "pictures": int(true.sum()),
            "named": round(float(said[true].mean()), 4) if true.any() else 0.0,
            "others": int(untrue.sum()),
            "others named": round(float(said[untrue].mean()), 4) if untrue.any() else 0.0,
        }
    return table


def _stored_head(model: Path) -> QualityHead:
    from model_store.artifact import load_quality_head, read_manifest
    from training.errors import ConfigError

    head = load_quality_head(model, read_manifest(model))
    if head is None:
        raise ConfigError(f"--start {model} has no quality head")
    return head


def _pictures(folder: Path) -> list[NDArray[np.uint8]]:
    from model_store.geometry import window_to_uint8
    from training.data.xray_files import files_by_name, read_xray
    from training.errors import ConfigError

    paths = files_by_name(folder).values()
    found = [window_to_uint8(read_xray(path).upright) for path in paths]
    if not found:
        raise ConfigError(f"{folder} holds no pictures")
    return found
