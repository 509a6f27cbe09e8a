"""For all tests of image workers."""

from __future__ import annotations

import gc

import pytest

from service.workers.shared_memory import Blob


@pytest.fixture(autouse=True)
def _count_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the service of another test still holds is not counted here."""
    gc.collect()  # a forgotten one would be counted off later
    monkeypatch.setattr(Blob, "held_bytes", 0)
