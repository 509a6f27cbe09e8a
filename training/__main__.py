"""``python -m training``: from raw downloads to a stored model and its evaluation."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

from training.commands import (
    acceptance,
    conventions,
    evaluate,
    export,
    graphs,
    import_reference,
    params,
    peft,
    phantoms,
    population,
    post_training,
    prepare,
    pseudo_masks,
    quality_head,
    report,
    sensitivity,
    sweep,
    train,
)

EXIT_REFUSED = 2


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare.add_arguments(commands.add_parser("prepare", help="a data set from raw downloads"))
    for stage, text in train.STAGE_HELP.items():
        train.add_arguments(commands.add_parser(stage, help=text), stage)
    params.add_arguments(commands.add_parser("params", help="count what a run trains"))
    export.add_arguments(
        commands.add_parser("export", help="write a stored model from a checkpoint")
    )
    graphs.add_arguments(
        commands.add_parser("graphs", help="a stored model as ONNX or OpenVINO graphs")
    )
    peft.add_arguments(commands.add_parser("peft", help="adapters as a folder that peft loads"))
    import_reference.add_arguments(
        commands.add_parser("import-reference", help="a stored model from the reference's file")
    )
    phantoms.add_arguments(
        commands.add_parser("phantoms", help="write a data set of synthetic chest phantoms")
    )
    evaluate.add_arguments(
        commands.add_parser("evaluate", help="how good a stored model is, per data set")
    )
    population.add_arguments(
        commands.add_parser("population", help="distributions and groups of X-rays, for a manifest")
    )
    post_training.add_arguments(
        commands.add_parser("ptq", help="what a stored model would be without training its INT8")
    )
    conventions.add_arguments(
        commands.add_parser("conventions", help="masks in another convention than stated")
    )
    pseudo_masks.add_arguments(
        commands.add_parser("pseudo-masks", help="masks by models where nobody annotated")
    )
    quality_head.add_arguments(
        commands.add_parser("quality-head", help="fit what names pictures that are no good X-rays")
    )
    sensitivity.add_arguments(
        commands.add_parser("sensitivity", help="what each layer loses when it alone is INT8")
    )
    acceptance.add_arguments(
        commands.add_parser("acceptance", help="does a model meet margins on a hospital's X-rays?")
    )
    sweep.add_arguments(commands.add_parser("sweep", help="search settings by Ray Tune"))
    report.add_arguments(commands.add_parser("report", help="one HTML page about a model or run"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 with one sentence on stderr if the command was refused or failed; 3 if a signal stopped
        a training that can be resumed.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = build_parser().parse_args(words)
    arguments.command_line = shlex.join(["python", "-m", "training", *words])
    # Imported late, so that --help answers at once: MONAI alone takes seconds to load.
    from model_store.artifact import ArtifactError
    from training.errors import CheckpointError, ConfigError, DataError

    try:
        return _RUN.get(arguments.command, train.run)(arguments)
    except (
        ArtifactError, CheckpointError, ConfigError, DataError, FloatingPointError, OSError,
    ) as error:  # fmt: skip
        print(f"python -m training {arguments.command}: {error}", file=sys.stderr)
        return EXIT_REFUSED


_RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "prepare": prepare.run,
    "params": params.run,
    "export": export.run,
    "graphs": graphs.run,
    "peft": peft.run,
    "import-reference": import_reference.run,
    "phantoms": phantoms.run,
    "evaluate": evaluate.run,
    "population": population.run,
    "ptq": post_training.run,
    "conventions": conventions.run,
    "pseudo-masks": pseudo_masks.run,
    "quality-head": quality_head.run,
    "sensitivity": sensitivity.run,
    "acceptance": acceptance.run,
    "report": report.run,
    "sweep": sweep.run,
}
"""The module of each command; the stages of training share one."""


if __name__ == "__main__":
    sys.exit(main())
