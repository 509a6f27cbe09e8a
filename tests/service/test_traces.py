"""Traces, sent by a real service to a collector that listens here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.service.server_process import running_server
from service import settings_checks
from service.settings import Settings, SettingsError
from service.settings_checks import require_trace_exporter
from tests.dicom_files import as_file, make_xray
from tests.service.fake_model import form
from tests.service.test_process import assert_one_sentence, start

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is absent: NOT tested")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Keeps the spans that are sent to it.

    Attributes:
        url: its address.
        bodies: what came.
    """

    def __init__(self) -> None:
        """Listens on a free port."""
        bodies: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.bodies = bodies
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> list[Any]:
        """All spans so far."""
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.mark.parametrize("fronts", ["1", "2"])
def test_a_request_joins_its_caller_s_trace(
    tiny_artifact: Path, collector: Collector, fronts: str
) -> None:
    flags = ["--threads", "1", "--otlp-endpoint", collector.url, "--fronts", fronts]
    with running_server(tiny_artifact, flags) as server:
        url = f"http://127.0.0.1:{server.port}"
        headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "X-Request-ID": "the-request"}
        sent = form(name="DOE^JOHN.png", bbox="1,2,50,60")
        assert httpx.post(f"{url}/segment", headers=headers, **sent).status_code == 200
        unsampled = {"traceparent": f"00-{TRACE_ID[::-1]}-{PARENT_ID}-00"}
        assert httpx.post(f"{url}/segment", headers=unsampled, **sent).status_code == 200
        assert httpx.post(f"{url}/segment", files={"image": ("a", b"?")}).status_code == 400
        assert httpx.get(f"{url}/livez").status_code == 200
        for name in ("DOE^JOHN", "DOEJOHN"):
            xray = as_file(make_xray(PatientName=name, PatientID=name, StudyDescription=name))
            for accepted in ("application/json", "image/png", "application/dicom"):
                asked = {"Accept": accepted, "traceparent": f"00-{'d' * 32}-{PARENT_ID}-01"}
                body: dict[str, Any] = {"files": {"image": (f"{name}.dcm", xray)}}
                assert httpx.post(f"{url}/segment", headers=asked, **body).status_code == 200
    assert sum(span.trace_id.hex() == "d" * 32 for span in collector.spans()) == 6 * 8
    spans = {(span.trace_id.hex(), span.name): span for span in collector.spans()}
    joined = {name: span for (trace, name), span in spans.items() if trace == TRACE_ID}
    root = joined.pop("POST /segment")
    assert root.parent_span_id.hex() == PARENT_ID
    assert list(joined) == [
        "decode", "preprocess", "queue", "encode_image", "decode_mask", "postprocess", "render",
    ]  # fmt: skip
    at_ns = root.start_time_unix_nano
    for span in joined.values():
        assert span.parent_span_id == root.span_id
        assert at_ns <= span.start_time_unix_nano <= span.end_time_unix_nano
        at_ns = span.end_time_unix_nano
    assert at_ns <= root.end_time_unix_nano + 20_000_000
    named = {one.key: one.value for one in root.attributes}
    assert named["lungseg.request_id"].string_value == "the-request"
    assert named["http.response.status_code"].int_value == 200
    others = [key for key in spans if key[0] not in (TRACE_ID, "d" * 32)]
    assert [name for _, name in others] == ["POST /segment"]  # the 400; not sampled: not sent
    assert not any(b"DOE" in body for body in collector.bodies)


def test_a_collector_that_is_away_costs_no_answer_and_no_time(tiny_artifact: Path) -> None:
    gone = Collector()
    gone.close()
    flags = ["--threads", "1", "--otlp-endpoint", gone.url]
    with running_server(tiny_artifact, flags) as server:
        for _ in range(5):
            answer = httpx.post(f"http://127.0.0.1:{server.port}/segment", **form())
            assert answer.status_code == 200
        server.process.terminate()
        began = time.monotonic()
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 20  # of the 25 that it may take to drain


def test_without_the_extra_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Settings(otlp_endpoint="http://127.0.0.1:4318")
    require_trace_exporter(wanted)
    monkeypatch.setattr(settings_checks, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="otel"):
        require_trace_exporter(wanted)


def test_an_endpoint_that_is_none_ends_with_2() -> None:
    assert_one_sentence(start("--otlp-endpoint", "collector:4318"), 2, "--otlp-endpoint")
