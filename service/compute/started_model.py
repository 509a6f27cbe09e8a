"""The model that a service started with, for all its devices, whatever is on disk later."""

from __future__ import annotations

import threading

from model_store.model_info import ModelInfo


class StartedModel:
    """The model of the first proven device, which every other device must serve, too."""

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.Lock()
        self._info: ModelInfo | None = None

    @property
    def info(self) -> ModelInfo | None:
        """The model; None before the first is proven."""
        return self._info

    def other_than(self, info: ModelInfo) -> ModelInfo | None:
        """Return the model of the start if it differs from this one; otherwise None."""
        started = self._info
        return None if started is None or _is_same(started, info) else started

    def claim(self, info: ModelInfo) -> bool:
        """Make a proven model the model of the start, if there is none yet.

        Returns:
            Whether the service serves this model.
        """
        with self._lock:
            self._info = self._info or info
            return _is_same(self._info, info)

    def replace(self, info: ModelInfo) -> None:
        """Replace the model of the start, as the operator allowed."""
        with self._lock:
            self._info = info


def _is_same(one: ModelInfo, other: ModelInfo) -> bool:
    return (one.sha256, one.manifest) == (other.sha256, other.manifest)
