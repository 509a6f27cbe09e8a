"""Log lines: JSON, one per event, and no message of an exception."""

from __future__ import annotations

import json
import logging
import sys

from service.logging import JsonLineFormatter, describe_error


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
