"""``prepare``: one data set for training from raw downloads."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from model_store.conventions import CONVENTIONS, DEFAULT_CONVENTION

SOURCE_NAMES = (
    "jsrt", "qata_cov19", "covid19_radiography", "pneumothorax", "covid_qu_ex", "montgomery",
    "shenzhen", "darwin", "folder",
)  # fmt: skip
"""Keys of `training.prepare.sources.SOURCES`, whose import is slow, and own X-rays."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--source", action="append", required=True, choices=SOURCE_NAMES,
        help="whose layout; repeat --source and --root for several in one data set",
    )  # fmt: skip
    parser.add_argument(
        "--root", action="append", required=True, type=Path,
        help="folder of the download, unpacked; one for each --source, in the same order",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--longest-side", type=int, default=1024,
        help="larger X-rays are scaled down to so many pixels (default 1024)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out unreadable and unpaired files"
    )
    parser.add_argument(
        "--report", type=Path, help="CSV of files that cannot be used (default: OUT-problems.csv)"
    )
    own = parser.add_argument_group(
        "own X-rays (--source folder)", "X-rays in ROOT or ROOT/images: PNG, JPEG, TIFF, DICOM; "
        "masks in ROOT/masks: pictures, label maps, NIfTI; or annotations of COCO or LabelMe",
    )  # fmt: skip
    own.add_argument("--name", default="own", help="name of the source in the manifest")
    own.add_argument("--license", default="", help="by which licence they may be used; required")
    own.add_argument(
        "--convention", default=DEFAULT_CONVENTION, choices=CONVENTIONS,
        help=f"how the lungs were annotated (default {DEFAULT_CONVENTION})",
    )  # fmt: skip
    own.add_argument(
        "--labels", default="", metavar="PART=LABEL,...",
        help="what labels mean, as right=1,left=2,heart=3 or lungs=Lunge",
    )  # fmt: skip
    own.add_argument("--patients", type=Path, help="CSV with the columns image and patient")
    own.add_argument(
        "--patient-pattern", default="", metavar="REGEX",
        help="regular expression whose group, found in a file's name, is the patient",
    )  # fmt: skip
    own.add_argument(
        "--only", default="", choices=("train", "val", "test"),
        help="put all X-rays into one split, as test for an acceptance",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, help="threads that decode (default: one per core)")
    parser.add_argument(
        "--mask-threshold", type=float,
        help="for soft masks: share of the highest value from which on a pixel is inside, such as "
        "0.5 (default: as the source says, mostly exactly two levels)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Write the data set and print the X-rays of each split; return 0.

    Raises:
        ConfigError: The numbers of --root and --source differ.
        DataError: A download cannot be used, or --out exists.
    """
    from training.errors import ConfigError
    from training.prepare.build_dataset import FOLDER, PrepareOptions, prepare
    from training.prepare.own.folder import OwnFolder
    from training.prepare.own.labels import parse_labels
    from training.prepare.splits import SHARES

    if len(arguments.source) != len(arguments.root):
        raise ConfigError(
            f"{len(arguments.source)} --source but {len(arguments.root)} --root: one for each"
        )
    out = arguments.out
    report = arguments.report or out.parent / f"{out.name}-problems.csv"
    options = PrepareOptions(
        out,
        report,
        arguments.longest_side,
        arguments.seed,
        arguments.skip_bad,
        arguments.workers,
        mask_threshold=arguments.mask_threshold,
    )
    if FOLDER in arguments.source:
        own = OwnFolder(
            arguments.name, arguments.license, arguments.convention,
            parse_labels(arguments.labels), arguments.patient_pattern, arguments.patients,
            arguments.mask_threshold,
        )  # fmt: skip
        options = dataclasses.replace(options, own=own, only=arguments.only)
    result = prepare(list(zip(arguments.source, arguments.root, strict=True)), options)
    print(f"{'source':<22}{'structure':<14}" + "".join(f"{split:>8}" for split in SHARES))
    for source, structure in sorted({key[:2] for key in result.counts}):
        numbers = [result.counts.get((source, structure, split), 0) for split in SHARES]
        print(f"{source:<22}{structure:<14}" + "".join(f"{number:>8}" for number in numbers))
    print(f"{result.duplicates} pairs of equal X-rays found by their looks, none split apart")
    if result.problems:
        print(f"{len(result.problems)} files left out, listed in {report}")
    return 0
