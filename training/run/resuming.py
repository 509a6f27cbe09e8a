"""Checks that a resumed run equals the original; each difference is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from training.config import RunConfig
from training.errors import CheckpointError, ConfigError
from training.optimizers.rates import rate_share

MAY_CHANGE = frozenset({
    "data.root", "data.also", "data.further_masks", "data.convention_mismatch",  # paths
    "teacher.models", "qat.sensitivity",
    "data.workers", "recompute_blocks", "checkpoint_every_steps", "tensorboard", "mlflow",
})  # fmt: skip
"""Settings that change no weight: paths, and how the work is done."""

_NAMED = 5


def settings_to_resume(
    config: RunConfig, state: Mapping[str, Any], *, extend: bool
) -> tuple[RunConfig, str]:
    """Compare the settings of a resumed run with the original ones.

    Args:
        config: The current settings.
        state: Its latest checkpoint.
        extend: Whether it may have more steps than at first.

    Returns:
        The settings to continue with, and a line about an extension's effect on the schedules;
        empty without an extension.

    Raises:
        ConfigError: A setting differs, or ``extend`` does not add steps.
    """
    begun = {**_flat(_defaults(config)), **_flat(state["config"])}
    now = _flat(config.to_dict())
    differing = [
        name
        for name, value in now.items()
        if name not in MAY_CHANGE and _plain(value) != _plain(begun.get(name, value))
    ]
    old_steps = int(state["config"]["steps"])
    if extend:
        if config.steps <= old_steps:
            raise ConfigError(
                f"--extend needs more steps than the {old_steps} that the run was begun with, not "
                f"{config.steps}"
            )
        differing = [name for name in differing if name != "steps"]
    if differing:
        said = "; ".join(
            f"{name} was {_plain(begun.get(name))!r}, not {_plain(now[name])!r}"
            for name in differing
        )
        more = "" if differing != ["steps"] else "; --extend prolongs a run"
        raise ConfigError(f"--resume goes on with the run that was begun: {said}{more}")
    return _extended(config, state, old_steps) if extend else (config, "")


def _extended(config: RunConfig, state: Mapping[str, Any], old_steps: int) -> tuple[RunConfig, str]:
    """Keep the step at which ranks settle, and let the rate fall at the new end."""
    more, step = config.steps - old_steps, int(state["step"])
    optimizer = config.optimizer
    old = rate_share(min(step, old_steps), old_steps, optimizer)
    new = rate_share(step, config.steps, optimizer)
    falls = config.steps - optimizer.decay_share * config.steps
    said = (
        f"extended from {old_steps} to {config.steps} steps: the rate falls from step {falls:.0f} "
        f"to {config.steps}, and is {new:.2f} of its peak at step {step}, where it was {old:.2f}"
    )
    if config.stage == "stage1" and config.adaptation.method == "adalora":
        settled = old_steps - config.adalora.final_steps
        final = config.adalora.final_steps + more
        adalora = dataclasses.replace(config.adalora, final_steps=final)
        config = dataclasses.replace(config, adalora=adalora)
        said += f"; ranks settle at step {settled} as before, adalora.final_steps is {final}"
    return config, said


def check_same_data(
    state: Mapping[str, Any], rows: Mapping[str, Mapping[str, str]], lineage: Any
) -> None:
    """Refuse to resume with other X-rays or another base.

    Args:
        state: The latest checkpoint; older ones without stored rows are accepted.
        rows: Digest of every row by split and name.
        lineage: Stages of the given base.

    Raises:
        CheckpointError: Rows were added, removed or changed, or the base differs.
    """
    for split, digests in rows.items():
        begun = state.get("rows", {}).get(split)
        if begun is not None and begun != digests:
            raise CheckpointError(
                f"--resume goes on with the X-rays that the run was begun with; of {split} "
                f"{_difference(begun, digests)}"
            )
    if _plain(list(state.get("lineage", lineage))) != _plain(list(lineage)):
        raise CheckpointError("--resume goes on from the base that the run was begun with: --base "
                              "is another")  # fmt: skip


def check_same_teachers(state: Mapping[str, Any], teachers: Sequence[str]) -> None:
    """Refuse to resume with other teachers, by the hashes of their weights.

    Raises:
        CheckpointError: The teachers differ; older checkpoints without hashes are accepted.
    """
    if list(state.get("teachers", teachers)) != list(teachers):
        raise CheckpointError(
            "--resume goes on with the teachers that the run was begun with: teacher.models are "
            "others"
        )


def _difference(begun: Mapping[str, str], now: Mapping[str, str]) -> str:
    kinds = {
        "new": sorted(set(now) - set(begun)),
        "gone": sorted(set(begun) - set(now)),
        "changed": sorted(name for name in set(begun) & set(now) if begun[name] != now[name]),
    }
    parts = [
        f"{len(names)} are {kind} ({', '.join(names[:_NAMED])}{', ...' if names[_NAMED:] else ''})"
        for kind, names in kinds.items()
        if names
    ]
    return ", ".join(parts)


def _defaults(config: RunConfig) -> dict[str, Any]:
    """Return the values of settings that an older checkpoint lacks."""
    tables = {
        field.name: dataclasses.asdict(field.default_factory())
        for field in dataclasses.fields(RunConfig)
        if field.default_factory is not dataclasses.MISSING
    }
    plain = {
        field.name: field.default
        for field in dataclasses.fields(RunConfig)
        if field.default is not dataclasses.MISSING
    }
    return {**plain, **tables, "model": dataclasses.asdict(config.model)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return dict(_items(values, prefix))


def _items(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" != "data.repeats":
            yield from _items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    """Return a value in the form of checkpoints and JSON, with lists for tuples."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
