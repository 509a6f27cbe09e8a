"""``sweep``: a search over settings by Ray Tune, each trial an ordinary run of training.

A trial is an ordinary training command, with its settings as ``--set``. Ray decides which are
tried, how many at a time and where.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import ConfigError

RESULT_FILE = "sweep.json"
METRIC = "selection"
"""The score by which a run chooses its best weights; higher is better."""
_KINDS = {"log": 2, "uniform": 2, "int": 2, "choice": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--stage", choices=("pretrain", "stage1", "stage2"), required=True)
    add("--config", type=Path, required=True, help="TOML file of the runs")
    add("--base", type=Path, help="what each run starts from")
    add("--out", type=Path, required=True, help="folder for the runs and sweep.json")
    add(
        "--search", action="append", required=True, metavar="NAME=KIND:VALUES",
        help="a setting to search: NAME=log:1e-4:1e-2, uniform:0:1, int:1:9 or choice:8,16,32",
    )  # fmt: skip
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="for every run")
    add("--trials", type=int, default=16)
    add("--cpus-per-trial", type=float, default=1.0)
    add("--gpus-per-trial", type=float, default=0.0)
    add("--seed", type=int, default=1, help="of the search")
    add("--ray", metavar="ADDRESS", help="head of a Ray cluster; default: Ray is started here")


def run(arguments: argparse.Namespace) -> int:
    """Search; print the best settings; return 0.

    Raises:
        ConfigError: Ray is missing, a setting cannot be read, or no trial succeeded.
    """
    space = {name: _parsed(text) for name, text in map(_split, arguments.search)}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        from ray import tune
    except ModuleNotFoundError:
        raise ConfigError("sweep needs Ray: pip install 'adalora-qat[ray]'") from None
    here: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray.init(
        address=arguments.ray or "local", log_to_driver=False, logging_level="warning",
        **({} if arguments.ray else here),
    )  # fmt: skip
    try:
        made = {name: _sampled(tune, kind, values) for name, (kind, values) in space.items()}
        resources = {"cpu": arguments.cpus_per_trial, "gpu": arguments.gpus_per_trial}
        trainable = tune.with_parameters(_trial, command=_command(arguments))
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space=made,
            tune_config=tune.TuneConfig(
                metric=METRIC, mode="max", num_samples=arguments.trials,
                search_alg=tune.search.BasicVariantGenerator(random_state=arguments.seed),
            ),
            run_config=tune.RunConfig(
                name="ray", storage_path=str(arguments.out.absolute()), verbose=0
            ),
        )  # fmt: skip
        trials = [
            {
                "settings": one.config,
                METRIC: (one.metrics or {}).get(METRIC),
                "error": _reason_of(one),
            }
            for one in tuner.fit()
        ]
    finally:
        ray.shutdown()
    return _report(arguments.out, trials)


def _report(out: Path, trials: Sequence[Mapping[str, Any]]) -> int:
    done = [one for one in trials if one[METRIC] is not None and one["error"] is None]
    ordered = sorted(done, key=lambda one: -float(one[METRIC]))
    failed = [one for one in trials if one not in done]
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"trials": [*ordered, *failed]}, indent=1)
    (out / RESULT_FILE).write_text(text, encoding="utf-8")
    if not ordered:
        raise ConfigError(f"no trial ended well: {failed[0]['error'] if failed else 'none began'}")
    print(json.dumps({"best": ordered[0], "done": len(ordered), "failed": len(failed)}))
    return 0


def _command(arguments: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "training", arguments.stage]
    command += ["--config", str(arguments.config.absolute())]
    if arguments.base is not None:
        command += ["--base", str(arguments.base.absolute())]
    command += ["--device", "cuda" if arguments.gpus_per_trial else "cpu"]
    for one in arguments.set:
        command += ["--set", one]
    folder = str(arguments.out.absolute())
    return [*command, "--run", folder]


def _trial(config: Mapping[str, Any], command: Sequence[str]) -> dict[str, float]:
    """Run one training and return its score; Ray calls this on a host."""
    from ray import tune

    folder = Path(command[-1]) / str(tune.get_context().get_trial_id())
    chosen = [part for name, value in config.items() for part in ("--set", f"{name}={value}")]
    done = subprocess.run(
        [*command[:-1], str(folder), *chosen], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.split())[-500:])
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {METRIC: max(one[METRIC] for one in events if one["event"] == "validation")}


def _reason_of(trial: Any) -> str | None:
    return None if trial.error is None else " ".join(str(trial.error).split())[-500:]


def _split(text: str) -> tuple[str, str]:
    name, separator, values = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"--search {text}: write NAME=KIND:VALUES")
    return name, values


def _parsed(text: str) -> tuple[str, list[Any]]:
    """Parse a search range such as ``log:1e-4:1e-2``.

    Raises:
        ConfigError: Another kind, or values that do not fit it.
    """
    kind, _, rest = text.partition(":")
    if kind not in _KINDS:
        raise ConfigError(f"--search {text}: the kind must be {', '.join(_KINDS)}")
    if kind == "choice":
        return kind, rest.split(",")
    try:
        low, high = (int(one) if kind == "int" else float(one) for one in rest.split(":"))
    except ValueError:
        raise ConfigError(f"--search {text}: write {kind}:LOW:HIGH") from None
    if low >= high or (kind == "log" and low <= 0):
        raise ConfigError(f"--search {text}: LOW must be below HIGH, and positive for log")
    return kind, [low, high]


def _sampled(tune: Any, kind: str, values: Sequence[Any]) -> Any:
    makers = {"log": tune.loguniform, "uniform": tune.uniform, "int": tune.randint}
    return tune.choice(list(values)) if kind == "choice" else makers[kind](*values)
