"""``peft``: the adapters of a stage 1 run as a folder that the library ``peft`` loads."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--run", type=Path, required=True, help="run or checkpoint of stage 1")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and print its content; return 0.

    Raises:
        CheckpointError: The run cannot be read.
        ConfigError: It has no AdaLoRA adapters, or the folder already has an adapter.
    """
    from training.adapters.peft_folder import write_peft_folder
    from training.stages.base import load_base

    rank = write_peft_folder(load_base(arguments.run).model, arguments.out)
    print(f"{arguments.out}: adapters of rank {rank}, mask decoder and prompt encoder")
    return 0
