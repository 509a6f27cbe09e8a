"""Generated requests against the published OpenAPI: no answer that is not documented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Err
from schemathesis.specs.openapi.checks import positive_data_acceptance

from benchmarks.service.server_process import running_server

EXAMPLES_PER_OPERATION = 20


# The generator and its dependencies warn of their own accord.
@pytest.mark.filterwarnings("ignore")
def test_every_answer_is_documented(tiny_artifact: Path) -> None:
    checked = []
    with running_server(tiny_artifact, ["--threads", "1"]) as server:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        for found in schema.get_all_operations():
            assert not isinstance(found, Err), found
            operation = found.ok()

            @settings(
                max_examples=EXAMPLES_PER_OPERATION,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def check(case: schemathesis.Case[Any]) -> None:
                # A schema cannot say that an image has at least 32 pixels a side.
                case.call_and_validate(excluded_checks=[positive_data_acceptance])

            check()
            checked.append(operation.label)
    assert "POST /segment" in checked and "GET /readyz" in checked
