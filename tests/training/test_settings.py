"""Every setting refuses what it would silently do wrong, and the refusal names it."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import GroupedMetadata
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.architecture import SamConfig
from training.__main__ import main
from training.config import RunConfig, parse_changes, with_settings
from training.errors import ConfigError

RUN = {"stage": "stage1", "steps": 1000}


def settings_of(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting by dotted name, with its annotation."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= settings_of(hint, f"{prefix}{name}.")
        elif name in {field.name for field in dataclasses.fields(kind)}:
            found[prefix + name] = hint
    return found


SETTINGS = settings_of(RunConfig)


def fits(hint: Any, value: Any) -> bool:
    """Tell whether a plain value is of an annotated type, written apart from what it tests."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits = [
            one
            for limit in arguments[1:]
            for one in (limit if isinstance(limit, GroupedMetadata) else [limit])
        ]
        return fits(arguments[0], value) and all(within(limit, value) for limit in limits)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin in (typing.Union, types.UnionType):
        return any(fits(kind, value) for kind in arguments)
    if origin is tuple:
        fixed = arguments[-1] is not Ellipsis
        return (
            isinstance(value, list)
            and (not fixed or len(value) == len(arguments))
            and all(fits(arguments[0], one) for one in value)
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(
            isinstance(key, str) and fits(arguments[1], one) for key, one in value.items()
        )
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def within(limit: Any, value: Any) -> bool:
    """Tell whether a number is within one limit of `annotated_types`."""
    kind = type(limit).__name__
    return {
        "Ge": lambda: value >= limit.ge, "Gt": lambda: value > limit.gt,
        "Le": lambda: value <= limit.le, "Lt": lambda: value < limit.lt,
    }[kind]()  # fmt: skip


SCALARS = st.one_of(
    st.booleans(), st.integers(-(10**12), 10**12), st.integers(-3, 40), st.floats(),
    st.floats(-2, 2), st.text(max_size=8), st.none(),
    st.sampled_from(["False", "true", "q", "lungs", "fp32", "adalora", "1"]),
)  # fmt: skip
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=4), SCALARS, max_size=2),
)


def test_settings_of_every_table_are_tried() -> None:
    assert len(SETTINGS) > 90
    assert {name.partition(".")[0] for name in SETTINGS} > {"data", "model", "augment", "teacher"}


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=40)
@given(value=VALUES)
def test_a_setting_holds_what_its_annotation_says_or_is_refused_by_name(
    name: str, value: Any
) -> None:
    try:
        config = with_settings(dict(RUN), {name: value})
    except ConfigError as refusal:
        assert name.rpartition(".")[2] in str(refusal)
        if not fits(SETTINGS[name], value):
            said = str(value).lower() if isinstance(value, bool) else repr(value)
            assert str(refusal).startswith(f"{name} is {said}; it must be ")
        return
    assert fits(SETTINGS[name], value), f"{name} took {value!r}"
    held: Any = config
    for part in name.split("."):
        held = getattr(held, part)
    assert held == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("tensorboard=False", "tensorboard is 'False'; it must be true or false"),
        ("compile=no", "compile is 'no'; it must be true or false"),
        ("deterministic=1", "deterministic is 1; it must be true or false"),
        ("qat.train_base=False", "qat.train_base is 'False'; it must be true or false"),
        ("teacher.held_out=0", "teacher.held_out is 0; it must be true or false"),
        ("batch_size=true", "batch_size is true; it must be a whole number, at least 1"),
        ("adalora.alpha=0", "adalora.alpha is 0; it must be a number, above 0"),
        ("adalora.targets=q", "adalora.targets is 'q'; it must be a list, each entry text"),
        ("loss.dice=NaN", "loss.dice is nan; it must be a number, at least 0"),
        ("augment.noise_deviation=-1", "augment.noise_deviation is -1; it must be a number, at "
         "least 0 and at most 2"),
        ("adalora.target_rank=2.5", "adalora.target_rank is 2.5; it must be a whole number"),
        ("steps=1.5", "steps is 1.5; it must be a whole number"),
        ("seed=-1", "seed is -1; it must be a whole number, at least 0"),
        ("optimizer.learning_rate=NaN", "optimizer.learning_rate is nan; it must be a number"),
        ("optimizer.learning_rate=1e400", "optimizer.learning_rate is inf; it must be a number"),
        ("data.root=5", "data.root is 5; it must be text"),
        ("data=5", "data is 5; it must be a table"),
        ("model=5", "model is 5; it must be a table"),
        ("data.root.deeper=5", "data.root.deeper: root is one setting"),
        ("model.input_size=384.5", "model.input_size is 384.5; it must be a whole number"),
        ("model.num_heads=0", "num_heads is 0; it must be at least 1"),
        ("data.leave_out=shenzhen", "data.leave_out is 'shenzhen'; it must be a list"),
        ("precision=fp16", "precision is 'fp16'; it must be one of bf16, fp32"),
        ("optimizer.learning_rat=1", r"learning_rat \(did you mean learning_rate\?\)"),
        ("batchsize=1", r"batchsize \(did you mean batch_size\?\)"),
        ("steps", "'steps' is not NAME=VALUE"),
    ],
)  # fmt: skip
def test_what_was_taken_in_silence_is_refused(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_settings({**RUN, "data": {"root": "x"}}, parse_changes([change]))


def test_the_command_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(__file__).parents[2] / "training" / "configs" / "miniature_pretrain.toml"
    command = ["pretrain", "--config", str(config), "--run", str(tmp_path / "run")]
    assert main([*command, "--set", "tensorboard=False"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert said.endswith("tensorboard is 'False'; it must be true or false")


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 2\.0; it must be a whole number"):
        RunConfig("pretrain", 1, SamConfig("vit_t", 64, 32, 1, 2), batch_size=2.0)  # type: ignore[arg-type]
