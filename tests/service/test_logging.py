"""Log lines: JSON, one per event, and no message of an exception."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings

import pytest

import service.logging
from service.logging import (
    JsonLineFormatter,
    OneLineASecond,
    configure_logging,
    describe_error,
)


def formatted(**extra: object) -> dict[str, object]:
    """Formats one record."""
    record = logging.LogRecord("n", logging.INFO, "p", 1, "event %d", (7,), None)
    for name, value in extra.items():
        setattr(record, name, value)
    text = JsonLineFormatter().format(record)
    assert "\n" not in text
    loaded = json.loads(text)
    assert isinstance(loaded, dict)
    return loaded


def test_fields_are_merged_into_the_line() -> None:
    """With the event and its level."""
    line = formatted(fields={"status": 200, "odd": object})
    assert (line["event"], line["level"], line["status"]) == ("event 7", "info", 200)


def test_an_exception_is_logged_by_type_and_place_only() -> None:
    """Its message could quote a patient's name."""
    try:
        raise ValueError("DOE^JOHN")
    except ValueError as error:
        line = formatted(exc_info=sys.exc_info())
        described = describe_error(error)
    assert line["error_type"] == "ValueError"
    assert "DOE" not in json.dumps(line) + json.dumps(described)
    assert "test_an_exception_is_logged" in json.dumps(described)


def complaint(name: str = "a", message: str = "no socket") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "p", 1, message, (), None)


def test_one_complaint_a_second_of_each_kind_is_written_with_the_number_of_the_others() -> None:
    now_s = [0.0]
    limiter = OneLineASecond(lambda: now_s[0])
    written = []
    for step in range(100):
        now_s[0] = step / 100
        written.append(limiter.filter(complaint()))
    assert written == [True] + [False] * 99
    assert limiter.filter(complaint("b")) and limiter.filter(complaint("a", "other"))
    now_s[0] = 1.0
    later = complaint()
    assert limiter.filter(later)
    assert later.fields == {"not_written_before": 99}  # type: ignore[attr-defined]


def test_the_lines_of_requests_are_all_written() -> None:
    limiter = OneLineASecond()
    record = logging.LogRecord("service.requests", logging.INFO, "p", 1, "request", (), None)
    assert all(limiter.filter(record) for _ in range(100))


@pytest.mark.parametrize("name", ["ZEBEDEECANARY", "ZEBEDEE^CANARY"])
def test_a_warning_of_a_library_is_logged_by_category_and_place_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries quote the header that they complain of."""
    root, written = logging.getLogger(), io.StringIO()
    handlers, level = list(root.handlers), root.level
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    try:
        configure_logging(written)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", python_showwarning())
            warnings.warn(f"The name {name} has no caret", UserWarning, stacklevel=1)
        for library in ("highdicom", "py"):
            logger = logging.getLogger(f"{library}.canary")  # no other test has silenced it
            monkeypatch.setattr(logger, "parent", root)
            logger.setLevel(logging.WARNING)
            logger.warning("odd name %s", name)
    finally:
        root.handlers = handlers
        root.setLevel(level)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert "ZEBEDEE" not in written.getvalue()
    assert lines[0]["category"] == "UserWarning"
    assert lines[0]["where"].startswith("service/test_logging.py:")
    assert [line["event"] for line in lines[1:]] == ["a library logged"] * 2


def python_showwarning() -> object:
    """What `configure_logging` put in place; `catch_warnings` keeps its own."""
    return service.logging._log_python_warning
