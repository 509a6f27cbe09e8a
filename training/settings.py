"""Building frozen settings from the plain types of TOML, a command line or a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from training.errors import ConfigError


def build_settings(kind: type[Any], values: Mapping[str, Any], table: str) -> Any:
    """Build the dataclass ``kind`` from the plain types of TOML or a checkpoint.

    Args:
        kind: A settings dataclass.
        values: Its fields; lists become tuples.
        table: Name of the table, for messages.

    Raises:
        ConfigError: A setting is unknown, missing or out of range.
    """
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"unknown settings in [{table}]: {', '.join(unknown)}")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return kind(**plain)
    except TypeError as error:
        raise ConfigError(f"[{table}]: {error}") from error
