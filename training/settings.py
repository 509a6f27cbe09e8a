"""Validation of frozen settings by their annotations: types, ranges, and known names.

A field's annotation declares its values: ``steps: Annotated[int, Ge(1)]``. Nothing is converted: a
string is never a truth value and a fraction never a count, because each would silently change an
experiment.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from training.errors import ConfigError

LARGEST_COUNT = 2**31 - 1
"""Above every sensible number of steps, X-rays or pixels."""

Count = Annotated[int, Interval(ge=1, le=LARGEST_COUNT)]
"""At least one of something."""

CountOrNone = Annotated[int, Interval(ge=0, le=LARGEST_COUNT)]
"""Any number of something, none included."""

Share = Annotated[float, Interval(ge=0, le=1)]
"""A share or a probability."""

Positive = Annotated[float, Gt(0)]
"""Above 0."""

NotNegative = Annotated[float, Ge(0)]
"""0 or above."""

_PLAIN_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def check_settings(settings: Any, table: str) -> None:
    """Compare every field of a settings dataclass with its annotation.

    Args:
        settings: The dataclass; of fields that are dataclasses only the type is checked, because
            each has checked itself.
        table: Name of its table; empty for the run itself.

    Raises:
        ConfigError: A value has another type or is out of range; the message names the setting, the
            value and the allowed values.
    """
    kind: Any = type(settings)
    for name, hint in _hints(kind).items():
        check_value(hint, getattr(settings, name), f"{table}.{name}" if table else name)


def check_value(hint: Any, value: Any, name: str) -> None:
    """Compare one value with a type and its range.

    Raises:
        ConfigError: It has another type or is out of range.
    """
    if not _fits(hint, value):
        raise ConfigError(f"{name} is {_shown(value)}; it must be {allowed(hint)}")


def _fits(hint: Any, value: Any) -> bool:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return isinstance(value, hint)
    if typing.get_origin(hint) is Literal:  # pydantic accepts 2.0 as 2 here
        return any(type(value) is type(one) and value == one for one in typing.get_args(hint))
    try:
        _adapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=_STRICT)


@functools.lru_cache(maxsize=64)
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _shown(value: Any) -> str:
    """Return a value in TOML's form where it differs from Python's."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(list(value) if isinstance(value, tuple) else value)


def allowed(hint: Any) -> str:
    """Return an annotation's allowed values in words, e.g. "a whole number of at least 1"."""
    if typing.get_origin(hint) is Annotated:
        plain, *limits = typing.get_args(hint)
        return f"{allowed(plain)}{_range_in_words(limits)}"
    if hint in _PLAIN_WORDS:
        return _PLAIN_WORDS[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(name) for name in arguments)
    if origin is tuple:
        many = "" if arguments[-1] is Ellipsis else f" of {len(arguments)} entries"
        return f"a list{many}, each entry {allowed(arguments[0])}"
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return " or ".join(allowed(kind) for kind in kinds) + ", or left out"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a table, each value {allowed(arguments[1])}"
    return "a table of settings"


def _range_in_words(limits: Iterable[Any]) -> str:
    plain = [one for limit in limits for one in _single_limits(limit)]
    words = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
    said = [
        f"{word} {getattr(limit, kind.__name__.lower())}"
        for kind, word in words.items()
        for limit in plain
        if isinstance(limit, kind) and getattr(limit, kind.__name__.lower()) != LARGEST_COUNT
    ]
    return f", {' and '.join(said)}" if said else ""


def _single_limits(limit: Any) -> Iterable[Any]:
    return limit if isinstance(limit, GroupedMetadata) else (limit,)


def build_settings(kind: type[Any], values: Any, table: str) -> Any:
    """Build the dataclass ``kind`` from the plain types of TOML or a checkpoint.

    Args:
        kind: A settings dataclass.
        values: Its fields; lists become tuples.
        table: Name of the table, for messages; empty for the run itself.

    Raises:
        ConfigError: A setting is unknown, missing or out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{table or 'the run'} is {_shown(values)}; it must be a table")
    known = {field.name: field for field in dataclasses.fields(kind)}
    check_names(values, known, f"[{table}]" if table else "the run")
    required = [
        name
        for name, field in known.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"[{table or 'run'}] lacks {', '.join(missing)}")
    return kind(**{name: without_lists(value) for name, value in values.items()})


def check_names(found: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse unknown names, and suggest the most similar known name.

    Raises:
        ConfigError: A name is unknown.
    """
    choices = list(known)
    unknown = [name for name in found if name not in choices]
    if not unknown:
        return
    said = []
    for name in unknown:
        alike = difflib.get_close_matches(name, choices, n=1)
        said.append(f"{name} (did you mean {alike[0]}?)" if alike else name)
    raise ConfigError(f"unknown settings in {where}: {', '.join(said)}")


def without_lists(value: Any) -> Any:
    """Return a value with tuples instead of lists, at any depth."""
    return tuple(without_lists(one) for one in value) if isinstance(value, list) else value
