"""``python -m training``: from raw downloads to a stored model and what it is worth."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.commands import (
    conventions,
    import_reference,
    params,
    prepare,
    report,
    sensitivity,
)

if TYPE_CHECKING:
    from training.run.loop import TrainingLoop
    from training.run.validation import ValidationScores

STAGE_HELP = {
    "pretrain": "train a compact SAM from scratch",
    "stage1": "adapt a base by AdaLoRA, mask decoder in full",
    "stage2": "quantization-aware training of a stage 1 model",
}

BASE_HELP = {
    "pretrain": "pretraining run, checkpoint or stored float model to go on from; without it, "
    "random weights",
    "stage1": "pretraining run, checkpoint or stored float model to start from, or Meta's "
    "sam_vit_*.pth",
    "stage2": "stage 1 run or checkpoint to start from",
}

EXIT_REFUSED = 2
EXIT_STOPPED = 3


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare.add_arguments(commands.add_parser("prepare", help="a data set from raw downloads"))
    for stage, text in STAGE_HELP.items():
        _add_stage(commands.add_parser(stage, help=text), stage)
    params.add_arguments(commands.add_parser("params", help="count what a run trains"))
    _add_export(commands.add_parser("export", help="write a stored model from a checkpoint"))
    import_reference.add_arguments(
        commands.add_parser("import-reference", help="a stored model from the reference's file")
    )
    _add_phantoms(commands.add_parser("phantoms", help="write a data set of drawn chest phantoms"))
    _add_evaluate(commands.add_parser("evaluate", help="how good a stored model is, per data set"))
    conventions.add_arguments(
        commands.add_parser("conventions", help="masks drawn otherwise than their data set says")
    )
    sensitivity.add_arguments(
        commands.add_parser("sensitivity", help="what each layer loses when it alone is INT8")
    )
    report.add_arguments(commands.add_parser("report", help="one HTML page about a model or run"))
    return parser


def _add_stage(parser: argparse.ArgumentParser, stage: str) -> None:
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--run", type=Path, required=True, help="folder that the run writes")
    parser.add_argument("--base", type=Path, required=stage != "pretrain", help=BASE_HELP[stage])
    parser.add_argument("--resume", action="store_true", help="continue the run in --run")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="replace one setting of the file, e.g. --set data.root=/data or --set steps=100",
    )  # fmt: skip


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="checkpoint or run folder")
    parser.add_argument("--name", required=True, help="name of the model, e.g. cxr-lung-tiny")
    parser.add_argument("--version", required=True, help="version, a whole number")
    parser.add_argument("--out", type=Path, default=Path("model_store/models"))
    parser.add_argument("--data", type=Path, required=True, help="data set it was trained on")
    parser.add_argument("--float-twin", help="name/version of the model before quantization")


def _add_phantoms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--train", type=int, default=64, help="phantoms to train on")
    parser.add_argument("--val", type=int, default=16, help="phantoms to choose by")
    parser.add_argument("--test", type=int, default=16, help="phantoms to measure on")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, help="folder of a stored model")
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 2 with one sentence on stderr when it was refused or could not go on, or 3 when a
        signal stopped a training that can be resumed.
    """
    arguments = build_parser().parse_args(argv)
    # Imported late: --help answers at once, MONAI alone takes seconds to load.
    from model_store.artifact import ArtifactError
    from training.errors import CheckpointError, ConfigError, DataError

    try:
        return _RUN.get(arguments.command, _train)(arguments)
    except (
        ArtifactError, CheckpointError, ConfigError, DataError, FloatingPointError, OSError,
    ) as error:  # fmt: skip
        print(f"python -m training {arguments.command}: {error}", file=sys.stderr)
        return EXIT_REFUSED


def _train(arguments: argparse.Namespace) -> int:
    from model_store.predictor import choose_device
    from training.acceleration.distributed import processes_from_environment
    from training.config import load_config, parse_setting
    from training.errors import ConfigError
    from training.run.assembly import prepare_run
    from training.run.interruption import StopRequest

    changes = dict(parse_setting(text) for text in arguments.set)
    config = load_config(arguments.config, changes)
    if config.stage != arguments.command:
        raise ConfigError(f"{arguments.config} is a {config.stage} run, not {arguments.command}")
    processes = processes_from_environment(os.environ)
    try:
        device = processes.device(choose_device(arguments.device))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with processes.joined(device), StopRequest() as stop:
        loop = prepare_run(
            config, arguments.base, arguments.run, resume=arguments.resume, device=device,
            processes=processes,
        )  # fmt: skip
        scores = loop.run(stop)
        if processes.is_writer:
            _report(arguments, loop, scores)
    return EXIT_STOPPED if scores is None else 0


def _report(
    arguments: argparse.Namespace, loop: TrainingLoop, scores: ValidationScores | None
) -> None:
    if scores is None:
        print(
            f"stopped after step {loop.step} of {loop.config.steps}; {arguments.run} is saved, "
            "go on with --resume",
            file=sys.stderr,
        )
        return
    result = {
        "own_box": scores.own_box,
        "whole_image": scores.whole_image,
        "weights_sha256": loop.weights_sha256(),
    }
    print(json.dumps(result, indent=2))


def _export(arguments: argparse.Namespace) -> int:
    from training.export import export_checkpoint

    result = export_checkpoint(
        arguments.run, arguments.out, arguments.name, arguments.version, arguments.data,
        arguments.float_twin,
    )  # fmt: skip
    share = result.size_bytes / result.float_size_bytes
    print(
        f"{result.folder}: {result.size_bytes / 1e6:.2f} MB, {share:.3f} of the weights in "
        f"float32; Dice of its golden mask on the phantom {result.golden_dice:.4f}"
    )
    return 0


def _phantoms(arguments: argparse.Namespace) -> int:
    from training.phantom.dataset import write_phantom_dataset

    counts = {"train": arguments.train, "val": arguments.val, "test": arguments.test}
    write_phantom_dataset(arguments.out, counts)
    print(f"{sum(counts.values())} phantoms in {arguments.out}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from model_store.predictor import Predictor
    from training.data.dataset import read_rows, rows_of_conventions
    from training.evaluation.evaluation import (
        Depth,
        evaluate,
        evaluation_to_json,
        load_float_twin,
        store_evaluation,
    )
    from training.evaluation.text import format_evaluation

    predictor = Predictor.load(arguments.model, arguments.device)
    twin = load_float_twin(arguments.model, predictor, arguments.device)
    known = predictor.info.manifest.conventions
    rows = rows_of_conventions(read_rows(arguments.data, arguments.split), known)
    depth = Depth(
        surface=arguments.surface or arguments.full,
        similarity=arguments.ssim or arguments.full,
        jitter=arguments.jitter or arguments.full,
        margin=arguments.margin,
    )
    found = evaluate(predictor, twin, rows, depth)
    print(format_evaluation(found))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(evaluation_to_json(found)), encoding="utf-8")
    if arguments.store:
        store_evaluation(arguments.model, predictor, arguments.split, found)
    return 0


_RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "prepare": prepare.run,
    "params": params.run,
    "export": _export,
    "import-reference": import_reference.run,
    "phantoms": _phantoms,
    "evaluate": _evaluate,
    "conventions": conventions.run,
    "sensitivity": sensitivity.run,
    "report": report.run,
}
"""What runs each command; the stages of training share one."""


if __name__ == "__main__":
    sys.exit(main())
