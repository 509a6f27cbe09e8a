"""Fixtures of the service's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Runs async tests on asyncio only, which is what the service runs on."""
    return "asyncio"
