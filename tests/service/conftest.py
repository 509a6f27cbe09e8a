"""Fixtures of the service's tests."""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.line_handler import LineHandler

if TYPE_CHECKING:
    from tests.service.node_hospital import Hospital


@pytest.fixture
def anyio_backend() -> str:
    """Runs async tests on asyncio only, which is what the service runs on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_log_lines() -> Generator[None, None, None]:
    """Ends what a program that ran in this process set up to write log lines.

    Its filter counts lines that it leaves out, and adds the count to those of later tests.
    """
    yield
    root = logging.getLogger()
    root.handlers = [one for one in root.handlers if not isinstance(one, LineHandler)]


@pytest.fixture
def hospital(tmp_path: Path) -> Generator[Hospital, None, None]:
    """A DICOM node with a service and an archive; needs the extra `pacs`."""
    from tests.service.node_hospital import Hospital
    from tests.service.node_peers import archive, service

    with service() as segmenting, archive() as to:
        yield Hospital(tmp_path, segmenting, to)
