"""What reports use to others cannot be imported in a process that holds X-rays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model_store.no_telemetry import REPORTING_MODULES

ASK = """
import sys
sys.path.insert(0, {folder!r})
from model_store.no_telemetry import forbid_telemetry
if {forbidden}:
    forbid_telemetry()
import {module}
"""


@pytest.mark.parametrize("module", REPORTING_MODULES)
@pytest.mark.parametrize("forbidden", [False, True])
def test_a_module_that_reports_cannot_be_imported(
    module: str, forbidden: bool, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text("")
    code = ASK.format(folder=str(tmp_path), forbidden=forbidden, module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == int(forbidden), done.stderr
    assert ("ModuleNotFoundError" in done.stderr) == forbidden
