"""Fixtures of the service's tests."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.service.node_hospital import Hospital


@pytest.fixture
def anyio_backend() -> str:
    """Runs async tests on asyncio only, which is what the service runs on."""
    return "asyncio"


@pytest.fixture
def hospital(tmp_path: Path) -> Generator[Hospital, None, None]:
    """A DICOM node with a service and an archive; needs the extra `pacs`."""
    from tests.service.node_hospital import Hospital
    from tests.service.node_peers import archive, service

    with service() as segmenting, archive() as to:
        yield Hospital(tmp_path, segmenting, to)
