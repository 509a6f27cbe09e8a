"""`python -m service.archive`: segments an archive of X-rays, here or over a cluster.

Exit codes: 0 every X-ray has a row and none failed; 1 internal failure; 2 bad flags; 3 every X-ray
has a row and some failed; 4 the run could not begin or continue (the same command continues it).
The result is one line of JSON on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_store.conventions import CONVENTIONS, DEFAULT_CONVENTION
from service.archive.cluster import UnitSize
from service.archive.errors import ArchiveError
from service.archive.run import ArchiveRun, run_archive
from service.archive.segmenter import ResultOptions
from service.imaging.segment_request import LungChoice
from service.settings import Settings

EXIT_DONE, EXIT_INTERNAL, EXIT_SOME_FAILED, EXIT_STOPPED = 0, 1, 3, 4
REQUEST_TIMEOUT_S = 300.0
QUEUE_LIMIT = 10_000
GPU_SHARE = 0.25
"""GPUs of an actor. One actor cannot keep a large GPU busy: four gave 196 X-rays a second, one
74."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: flags; None for those of the process.

    Returns:
        The exit code.
    """
    flags = _parser().parse_args(argv)
    try:
        told = run_archive(_run_of(flags))
    except ArchiveError as error:
        print(f"archive: {error}", file=sys.stderr)
        return EXIT_STOPPED
    except OSError as error:
        print(f"archive: a result cannot be written: {error}", file=sys.stderr)
        return EXIT_STOPPED
    print(json.dumps(told))
    return EXIT_SOME_FAILED if told["failed"] else EXIT_DONE


def _run_of(flags: argparse.Namespace) -> ArchiveRun:
    is_gpu = flags.device == "cuda"
    gpus = flags.gpus_per_actor if flags.gpus_per_actor is not None else GPU_SHARE * is_gpu
    cpus = flags.cpus_per_actor or (4.0 if is_gpu else 1.0)
    workers = flags.image_workers or max(2, round(cpus))
    chosen: dict[str, Any] = {
        "model": flags.model,
        "device": flags.device,
        "threads": 1 if is_gpu else max(1, round(cpus)),
        "image_workers": workers,
        "max_pixels": flags.max_pixels,
        "max_upload_bytes": flags.max_upload_bytes,
        "max_batch": flags.max_batch,
        "queue_limit": QUEUE_LIMIT,
        "request_timeout_s": REQUEST_TIMEOUT_S,
    }
    settings = Settings(**chosen)
    options = ResultOptions(
        threshold=flags.threshold,
        lungs=LungChoice(flags.lungs),
        masks=flags.masks,
        overlays=flags.overlays,
        segmentations=flags.seg,
    )
    return ArchiveRun(
        sources=flags.input,
        output=flags.output,
        convention=flags.convention,
        settings=settings,
        options=options,
        size=UnitSize(cpus, gpus),
        actors=flags.actors,
        rows_per_part=flags.rows_per_part,
        ray_address=flags.ray,
        local_cpus=flags.local_cpus,
        retries_failures=flags.retry_failed,
        contact_sheet=flags.contact_sheet,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service.archive",
        description="Segment an archive of chest X-rays, on this machine or over a Ray cluster.",
        epilog="Exit codes: 0 done, 2 bad flags, 3 some X-rays failed, 4 stopped: the same "
        "command goes on from there.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        help="folders, files, patterns, addresses such as s3://bucket/folder, and tables (.csv, "
        ".parquet) with a column input and, if wanted, boxes or x0,y0,x1,y1, and convention",
    )
    add("--output", required=True, help="folder or address of the results; every host reaches it")
    add("--ray", metavar="ADDRESS", help="head of a Ray cluster; default: Ray is started here")
    add("--model", type=Path, help="model folder; default: the model that the package holds")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the model runs")
    add("--convention", choices=CONVENTIONS, default=DEFAULT_CONVENTION)
    add("--threshold", type=_probability, default=0.5, help="probability from which it is lung")
    add("--lungs", choices=("both", "each"), default="both", help="one mask, or one for each lung")
    add("--masks", action="store_true", help="write masks as PNG")
    add("--overlays", action="store_true", help="write overlays as PNG")
    add("--seg", action="store_true", help="write DICOM segmentations of X-rays in DICOM")
    add("--actors", type=_count, help="model processes; default: as many as there is room for")
    add("--cpus-per-actor", type=float, help="default: 1, on a GPU 4")
    add(
        "--gpus-per-actor",
        type=float,
        help=f"GPUs, or a share of one (default with --device cuda: {GPU_SHARE})",
    )
    add("--image-workers", type=_count, help="of an actor; default: its processors, 2 at least")
    add("--max-batch", type=_count, default=4, help="X-rays handed to the model at a time")
    add("--rows-per-part", type=_count, default=64, help="X-rays of a batch (default: %(default)s)")
    add(
        "--local-cpus",
        type=_count,
        help="processors of a Ray started here; default: all that this process may use",
    )
    add("--retry-failed", action="store_true", help="try X-rays again that failed before")
    add("--contact-sheet", type=int, default=24, help="X-rays on the sheet of the least sure")
    add("--max-pixels", type=_count, default=40_000_000, help="refuse larger X-rays")
    add("--max-upload-bytes", type=_count, default=64 * 1024 * 1024, help="refuse larger files")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _probability(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError("must lie between 0 and 1, both excluded")
    return value


if __name__ == "__main__":
    sys.exit(main())
