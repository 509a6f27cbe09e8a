"""``params``: how many parameters a run trains, per part."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--variant", help="vit_t, vit_b, vit_l or vit_h; default: the config's")
    parser.add_argument("--config", type=Path, help="TOML file of a run; default: plain stage 1")
    parser.add_argument("--initial-rank", type=int, help="replaces adalora.initial_rank")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="replace one setting, e.g. --set adaptation.method=lora",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write the count here")


def run(arguments: argparse.Namespace) -> int:
    """Print the count; return 0.

    Raises:
        ConfigError: The run or the variant is invalid.
    """
    from model_store.architecture import sam_config
    from training.config import parse_changes
    from training.errors import ConfigError
    from training.stages.parameter_count import count_parameters, format_count

    changes = parse_changes(arguments.set)
    config = _config(arguments.config, changes, arguments.initial_rank)
    architecture = config.model
    if arguments.variant is not None:
        size = {} if config.input_size is None else {"input_size": config.input_size}
        try:
            architecture = sam_config(arguments.variant, **size)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    count = count_parameters(config, architecture)
    print(f"{architecture.variant}, {architecture.input_size} px, {config.stage}, "
          f"{_method(config)}\n{format_count(count)}")  # fmt: skip
    if arguments.json is not None:
        parts = {name: vars(part) for name, part in count.parts.items()}
        totals = {"trainable": count.trainable, "frozen": count.frozen, "base": count.base,
                  "base_encoder": count.base_encoder}  # fmt: skip
        arguments.json.write_text(json.dumps({"parts": parts, **totals}, indent=2), "utf-8")
    return 0


def _config(path: Path | None, changes: dict[str, Any], initial_rank: int | None) -> Any:
    from training.config import load_config, with_settings

    if initial_rank is not None:
        changes = {"adalora.initial_rank": initial_rank, **changes}
        if path is None:
            changes.setdefault("adalora.target_rank", min(8, initial_rank))
    if path is not None:
        return load_config(path, changes)
    return with_settings({"stage": "stage1", "steps": 1000}, changes)


def _method(config: Any) -> str:
    if config.stage == "pretrain":
        return "every weight"
    method = str(config.adaptation.method)
    ranks = {
        "adalora": f" of rank {config.adalora.initial_rank}, on average "
        f"{config.adalora.target_rank} at the end, on {', '.join(config.adalora.targets)}",
        "lora": f" of rank {config.lora.rank} on {', '.join(config.lora.targets)}",
    }
    return method + ranks.get(method, "")
