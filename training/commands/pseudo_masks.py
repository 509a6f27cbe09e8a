"""``pseudo-masks``: models' masks of X-rays that nobody annotated, to train on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.prepare.pseudo_masks import PseudoMasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    models = "runs or stored float models whose mean segments "
    parser.add_argument("--lung-field", type=Path, nargs="+", required=True, help=models + "fields")
    parser.add_argument("--whole-lung", type=Path, nargs="+", required=True, help=models + "lungs")
    parser.add_argument("--heart", type=Path, nargs="+", required=True, help=models + "the heart")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="annotated data set: writes further masks of it")
    source.add_argument(
        "--unlabelled", type=Path, help="folder of X-rays with a manifest.csv of name and patient: "
        "writes a data set of whole lungs, with further masks in its folder `further`",
    )  # fmt: skip
    parser.add_argument("--split", default="train", choices=("train", "val"))
    parser.add_argument("--source", default="unlabelled", help="name of the new data set's source")
    parser.add_argument("--parts", type=int, default=1, help="commands that share the X-rays")
    parser.add_argument("--part", type=int, default=0, help="which of them this is, from 0")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def run(arguments: argparse.Namespace) -> int:
    """Segment and write; return 0.

    Raises:
        ArtifactError: A stored model is refused.
        CheckpointError: A run cannot be read.
        ConfigError: ``--out`` exists, or the part does not.
        DataError: The X-rays cannot be read.
    """
    from model_store.predictor import choose_device
    from training.adapters.adapted_model import merge_adapters
    from training.errors import ConfigError
    from training.prepare.pseudo_masks import Segmenters
    from training.stages.base import load_base

    if not 0 <= arguments.part < arguments.parts:
        raise ConfigError(f"--part {arguments.part} is not one of --parts {arguments.parts}")
    if arguments.out.exists():
        raise ConfigError(f"{arguments.out} exists already; choose another folder")
    device = choose_device(arguments.device)
    loaded = {}
    for path in {*arguments.lung_field, *arguments.whole_lung, *arguments.heart}:
        loaded[path] = load_base(path).model
        merge_adapters(loaded[path])
        loaded[path].to(device).eval().requires_grad_(False)
    segmenters = Segmenters(
        [loaded[path] for path in arguments.lung_field],
        [loaded[path] for path in arguments.whole_lung],
        [loaded[path] for path in arguments.heart],
    )
    write = _further_of_annotated if arguments.data is not None else _new_data_set
    count = sum(1 for _ in write(arguments, segmenters))
    print(f"masks of {count} X-rays in {arguments.out}")
    return 0


def _further_of_annotated(arguments: argparse.Namespace, segmenters: object) -> Iterator[None]:
    from training.data.dataset import load_xray, read_rows
    from training.prepare.pseudo_masks import Segmenters, pseudo_masks

    assert isinstance(segmenters, Segmenters)
    rows = read_rows(arguments.data, arguments.split)
    for row in rows[arguments.part :: arguments.parts]:
        xray = load_xray(row)
        masks = pseudo_masks(xray.image, segmenters, xray)
        _write(arguments.out, row.name, masks, leave_out=xray.convention)
        yield


def _new_data_set(arguments: argparse.Namespace, segmenters: object) -> Iterator[None]:
    import csv
    import shutil

    from model_store.geometry import window_to_uint8
    from training.data.unlabelled import read_unlabelled
    from training.data.xray_files import read_xray
    from training.prepare.pseudo_masks import Segmenters, pseudo_masks

    assert isinstance(segmenters, Segmenters)
    xrays = read_unlabelled(arguments.unlabelled)
    images, masks_folder = (arguments.out / "train" / kind for kind in ("images", "masks"))
    images.mkdir(parents=True)
    masks_folder.mkdir()
    with (arguments.out / "manifest.csv").open("w", newline="", encoding="utf-8") as written:
        rows = csv.writer(written)
        rows.writerow(["name", "split", "source", "convention", "group"])
        for xray in xrays[arguments.part :: arguments.parts]:
            if xray.is_annotated_elsewhere:
                continue
            picture = read_xray(xray.path)
            masks = pseudo_masks(window_to_uint8(picture.upright), segmenters)
            shutil.copyfile(xray.path, images / xray.path.name)
            _save(masks_folder / f"{xray.name}.png", picture.orientation.invert(masks.whole_lung))
            _write(arguments.out / "further", xray.name, masks, leave_out="whole_lung")
            group = f"{arguments.source}_{xray.patient}"
            rows.writerow([xray.name, "train", arguments.source, "whole_lung", group])
            yield


def _write(folder: Path, name: str, masks: PseudoMasks, leave_out: str) -> None:
    for kind, mask in vars(masks).items():
        if kind != leave_out and mask is not None:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            _save(folder / kind / f"{name}.png", mask)


def _save(path: Path, mask: object) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.asarray(mask).astype(np.uint8) * 255).convert("1").save(path, optimize=True)
