"""``pretrain``, ``stage1``, ``stage2``: one run of training."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.run.loop import TrainingLoop
    from training.run.validation import ValidationScores

STAGE_HELP = {
    "pretrain": "train a compact SAM from scratch",
    "stage1": "adapt a base by AdaLoRA, mask decoder in full",
    "stage2": "quantization-aware training of a stage 1 model",
}
"""The stages, and what each does."""

_BASE_HELP = {
    "pretrain": "pretraining run, checkpoint or stored float model to go on from; without it, "
    "random weights",
    "stage1": "pretraining run, checkpoint or stored float model to start from, or Meta's "
    "sam_vit_*.pth",
    "stage2": "stage 1 run, checkpoint or stored float model to start from",
}

EXIT_STOPPED = 3
"""Exit status of a run that a signal stopped; it can be resumed."""


def add_arguments(parser: argparse.ArgumentParser, stage: str) -> None:
    """Declare the arguments of a stage."""
    parser.add_argument("--config", type=Path, required=True, help="TOML file of the run")
    parser.add_argument("--run", type=Path, required=True, help="folder that the run writes")
    parser.add_argument("--base", type=Path, required=stage != "pretrain", help=_BASE_HELP[stage])
    parser.add_argument("--resume", action="store_true", help="continue the run in --run")
    parser.add_argument(
        "--extend", action="store_true",
        help="with --resume: let the run have more steps than it was begun with",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="replace one setting of the file, e.g. --set data.root=/data or --set steps=100",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Train; print the last validation; return 0, or 3 when a signal stopped the run.

    Raises:
        ArtifactError: The base or a teacher is a stored model that is refused.
        CheckpointError: A checkpoint cannot be used or written.
        ConfigError: The settings are wrong, or of another stage.
        DataError: The data set cannot be used.
        FloatingPointError: A gradient is not finite.
    """
    from model_store.predictor import choose_device
    from training.acceleration.distributed import processes_from_environment
    from training.checkpoint import holds_run
    from training.config import load_config, parse_changes
    from training.errors import ConfigError
    from training.run.assembly import prepare_run
    from training.run.interruption import StopRequest

    if arguments.extend and not arguments.resume:
        raise ConfigError("--extend prolongs a run that --resume goes on with")
    changes = parse_changes(arguments.set)
    config = load_config(arguments.config, changes)
    if config.stage != arguments.command:
        raise ConfigError(f"{arguments.config} is a {config.stage} run, not {arguments.command}")
    processes = processes_from_environment(os.environ)
    try:
        device = processes.device(choose_device(arguments.device))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with processes.joined(device), StopRequest() as stop:
        goes_on = processes.attempt > 0 and holds_run(arguments.run)
        resume = processes.from_writer(lambda: arguments.resume or goes_on)
        loop = prepare_run(
            config, arguments.base, arguments.run, resume=resume, device=device,
            processes=processes, command=arguments.command_line,
            extend=arguments.extend,
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
