"""Optional export of one trace per request to an OpenTelemetry collector (`--otlp-endpoint`).

Without an endpoint nothing of OpenTelemetry is imported and no connection is opened. Spans are made
from the record of an answered request, so log, metrics and traces agree, and spans hold no more
than the log. The exporter's own thread sends them; an unreachable collector costs spans, never an
answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import model_store
from service.loopback import is_loopback
from service.request_record import RequestRecord

SEND_TIMEOUT_S = 3.0


class TraceSink(Protocol):
    """Receives finished requests."""

    def send(self, record: RequestRecord, status: int) -> None:
        """Make the spans of one request and queue them."""

    def close(self) -> None:
        """Send what waits, within seconds."""


class TraceExport:
    """Sends spans to one collector over OTLP/HTTP."""

    def __init__(self, endpoint: str) -> None:
        """Start the exporter's thread.

        Args:
            endpoint: address of the collector, such as `http://127.0.0.1:4318`.
        """
        import requests
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

        resource = Resource({"service.name": "lungseg", "service.version": model_store.__version__})
        # The caller decides whether to sample; a request without a decision is traced.
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON), resource=resource, shutdown_on_exit=False
        )
        url = endpoint.rstrip("/") + "/v1/traces"
        session = requests.Session()
        # A collector on this machine is never behind the environment's proxy.
        session.trust_env = not is_loopback(urlsplit(url).hostname or "")
        exporter = OTLPSpanExporter(endpoint=url, timeout=SEND_TIMEOUT_S, session=session)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("service")

    def send(self, record: RequestRecord, status: int) -> None:
        """Make the spans of one request and queue them; the record gets its trace id.

        Args:
            record: the request, answered.
            status: HTTP status of the answer.
        """
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = {} if record.traceparent is None else {"traceparent": record.traceparent}
        clock_ns = time.time_ns() - time.perf_counter_ns()  # clock of the record's times
        root = self._tracer.start_span(
            f"POST {record.route}",
            context=TraceContextTextMapPropagator().extract(parent),
            kind=trace.SpanKind.SERVER,
            start_time=clock_ns + _ns(record.started_at),
            attributes=_attributes(record, status),
        )
        if status >= 500:
            root.set_status(trace.StatusCode.ERROR)
        inside = trace.set_span_in_context(root)
        at_ns = clock_ns + _ns(record.decode_began_at or record.started_at)
        # Stages follow each other in time. Waiting for an image worker after the network counts as
        # render and happens before postprocess.
        for stage, seconds in record.stages():
            span = self._tracer.start_span(stage, context=inside, start_time=at_ns)
            at_ns += _ns(seconds)
            span.end(at_ns)
        root.end()
        record.trace_id = f"{root.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what waits, within seconds."""
        self._provider.shutdown()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _attributes(record: RequestRecord, status: int) -> Mapping[str, Any]:
    attributes = {
        "http.request.method": "POST",
        "http.route": record.route,
        "http.response.status_code": status,
        "lungseg.request_id": record.request_id,
        "lungseg.code": record.problem_code,
        "lungseg.upload_bytes": record.upload_bytes,
        "lungseg.format": record.image_format,
        "lungseg.width": record.width,
        "lungseg.height": record.height,
        "lungseg.boxes": record.box_count,
        "lungseg.batch_size": record.batch_size,
        "lungseg.warnings": record.warning_codes or None,
    }
    return {name: value for name, value in attributes.items() if value is not None}
