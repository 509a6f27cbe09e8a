"""Logs as JSON lines on standard output: one line per request, one per event of the process.

A line has ids, route, status, times, sizes and codes, and nothing that could name a patient.
Exceptions are logged only by type and place, because their messages may quote a file name or a
DICOM value.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
import warnings as python_warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from service.line_handler import LineHandler
from service.request_record import RequestRecord

logger = logging.getLogger("service.requests")

warnings_logger = logging.getLogger("service.warnings")

DEEPEST_FRAMES = 8
PROBE_ROUTES = frozenset({"/livez", "/health", "/readyz", "/healthz", "/metrics"})
"""Routes called every few seconds: their successful answers are logged at debug, which is not
written."""
_QUOTING_LIBRARIES = frozenset({"pydicom", "highdicom", "PIL", "imagecodecs", "py"})
"""Loggers whose messages quote their input; Python's warnings may go to "py.warnings"."""
_KIND_LENGTH, _MOST_KINDS = 80, 1000


class JsonLineFormatter(logging.Formatter):
    """Renders a log record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; `extra={"fields": {...}}` of the call is merged in."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.name.split(".")[0] in _QUOTING_LIBRARIES:
            line |= {"event": "a library logged", "where": f"{record.module}:{record.lineno}"}
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line.update(describe_error(record.exc_info[1]))
        return json.dumps(line, default=str)


class OneLineASecond(logging.Filter):
    """Writes one line a second of each kind of warning or error, and counts the others.

    Callers who cause warnings must not be able to fill the disk. Lines of requests are never
    suppressed.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """Start without lines.

        Args:
            now_s: monotonic clock; a clock that is set back would suppress lines for hours.
        """
        super().__init__()
        self._now_s = now_s
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, int, str], _Kept] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the record; it may state how many were suppressed."""
        if record.levelno < logging.WARNING:
            return True
        kind = (record.name, record.levelno, str(record.msg)[:_KIND_LENGTH])
        now_s = self._now_s()
        with self._lock:
            if len(self._kinds) > _MOST_KINDS:
                self._kinds.clear()
            kept = self._kinds.setdefault(kind, _Kept())
            if now_s < kept.next_at:
                kept.count += 1
                return False
            count, kept.count, kept.next_at = kept.count, 0, now_s + 1.0
        if count:
            record.fields = {**getattr(record, "fields", {}), "not_written_before": count}
        return True


@dataclass
class _Kept:
    """One kind of line: time of the next, and number of suppressed ones."""

    next_at: float = -math.inf
    count: int = 0


def describe_error(error: BaseException) -> dict[str, Any]:
    """Return the type of an error and the functions it passed, without its message."""
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "?")
        frames.append(f"{module}.{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return {"error_type": type(error).__name__, "where": frames[-DEEPEST_FRAMES:]}


def configure_logging(stream: TextIO | None = None) -> LineHandler:
    """Send every log of the process to one stream as JSON lines; called once, by `__main__`.

    Args:
        stream: where to write; standard output when None.

    Returns:
        What writes the lines, and counts those that it cannot write.
    """
    handler = LineHandler(stream or sys.stdout)
    handler.setFormatter(JsonLineFormatter())
    handler.addFilter(OneLineASecond())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("service").setLevel(logging.INFO)
    python_warnings.showwarning = _log_python_warning
    return handler


def _log_python_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a library's warning by category and place; its text may quote a header's value."""
    where = f"{'/'.join(Path(filename).parts[-2:])}:{lineno}"
    fields = {"category": category.__name__, "where": where}
    warnings_logger.warning("a library warned", extra={"fields": fields})


def log_request(record: RequestRecord, status: int) -> None:
    """Write the line of one request.

    Args:
        record: what the service noted of the request.
        status: HTTP status of the answer; 499 when the caller left before it.
    """
    model = record.requested_model
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "key": record.key_name,
        "route": record.route,
        "model": None if model is None else f"{model.name}/{model.version}",
        "status": status,
        "code": record.problem_code,
        "total_ms": round(record.elapsed_s() * 1000, 1),
        "stages_ms": {name: round(s * 1000, 1) for name, s in record.stages()},
        "upload_bytes": record.upload_bytes,
        "format": record.image_format,
        "width": record.width,
        "height": record.height,
        "boxes": record.box_count,
        "batch_size": record.batch_size,
        "warnings": list(record.warning_codes),
    }
    shown = {name: value for name, value in fields.items() if value not in (None, [], {})}
    is_probe = record.route in PROBE_ROUTES and status < 400
    logger.log(logging.DEBUG if is_probe else logging.INFO, "request", extra={"fields": shown})
