"""The index of stored models: where each is kept, and which is served by default.

`models/index.json` names every version that was ever stored. The package has only the served model.
The repository also has its float twin and the offered models (weights of 2 bits).
`model_store.fetching` fetches older versions from the source in ``where``.

Nothing here imports PyTorch: the service reads the default folder before it loads anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS_FOLDER = Path(__file__).parent / "models"
INDEX_FILE = MODELS_FOLDER / "index.json"
FORMAT_VERSION = 1
STATUSES = ("served", "twin", "offered", "superseded")


class ModelIndexError(ValueError):
    """The index cannot be used, or does not name the requested model."""


@dataclass(frozen=True)
class IndexedModel:
    """One line of the index.

    Attributes:
        sha256: Hash of its weights, which its manifest must state too.
        size_bytes: Size of its weights.
        status: ``served`` (the default), ``twin`` (the default before quantization), ``offered``
            (another model in the repository, served on request) or ``superseded``.
        where: ``folder:PATH`` (relative to the folder of models), ``file:PATH`` (an archive),
            an ``https:`` address of an archive, or ``git:COMMIT`` of this repository.
    """

    name: str
    version: str
    sha256: str
    size_bytes: int
    status: str
    where: str

    @property
    def label(self) -> str:
        """``NAME/VERSION``, which commands accept and which is its folder's path."""
        return f"{self.name}/{self.version}"


def read_index(path: Path = INDEX_FILE) -> tuple[IndexedModel, ...]:
    """Read the index, in the file's order.

    Raises:
        ModelIndexError: It is missing or damaged, names a model twice, or does not have exactly one
            served model.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise ModelIndexError(
                f"{path}: format version {content['format_version']}, not {FORMAT_VERSION}"
            )
        models = tuple(IndexedModel(**line) for line in content["models"])
    except OSError as error:
        raise ModelIndexError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelIndexError):
            raise
        raise ModelIndexError(f"{path} is not an index of models: {error}") from error
    labels = [model.label for model in models]
    if len(set(labels)) != len(labels):
        raise ModelIndexError(f"{path} names a model twice")
    unknown = [model.status for model in models if model.status not in STATUSES]
    if unknown:
        raise ModelIndexError(f"{path}: status {unknown[0]!r} is not {', '.join(STATUSES)}")
    if sum(model.status == "served" for model in models) != 1:
        raise ModelIndexError(f"{path}: exactly one model must be served")
    return models


def find_model(label: str, index: tuple[IndexedModel, ...] | None = None) -> IndexedModel:
    """Return the line of ``NAME/VERSION``.

    Raises:
        ModelIndexError: No such model; the message names the models in the index.
    """
    models = read_index() if index is None else index
    for model in models:
        if model.label == label:
            return model
    raise ModelIndexError(f"no model {label}; there are {', '.join(m.label for m in models)}")


def default_model() -> IndexedModel:
    """Return the line of the served model."""
    return next(model for model in read_index() if model.status == "served")


def default_model_folder() -> Path:
    """Return the folder of the served model: the one place that says which model is the default.

    Raises:
        ModelIndexError: The index cannot be used.
    """
    return MODELS_FOLDER / default_model().label


def default_float_twin_folder() -> Path:
    """Return the folder of the served model before quantization; only the repository has it."""
    return MODELS_FOLDER / next(m for m in read_index() if m.status == "twin").label
