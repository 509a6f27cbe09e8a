"""Log lines on a full disk, and of a reader that is gone: counted, and nothing else happens."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
from collections.abc import Iterator

import pytest

from service.line_handler import LineHandler
from service.logging import JsonLineFormatter


def handler_of(stream: io.TextIOBase) -> tuple[LineHandler, logging.Logger]:
    handler = LineHandler(stream)  # type: ignore[arg-type]
    handler.setFormatter(JsonLineFormatter())
    logger = logging.Logger("canary")
    logger.addHandler(handler)
    return handler, logger


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """A pipe of one page that never waits: its reading end, and what writes."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    stream = io.TextIOWrapper(io.FileIO(writer, "w"))
    yield reader, stream
    stream.close()
    os.close(reader)


def test_lines_that_a_full_disk_takes_not_are_counted_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open("/dev/full", "w") as full:
        handler, logger = handler_of(full)
        told: list[None] = []
        handler.on_lost = lambda: told.append(None)
        for _ in range(50):
            logger.warning("no room")
        assert handler.lost_lines == len(told) == 50
    assert capfd.readouterr() == ("", "")


def test_a_reader_that_is_gone_is_the_same(
    capfd: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(io.FileIO(writer, "w")) as stream:
        handler, logger = handler_of(stream)
        logger.warning("nobody reads")
    logger.warning("closed altogether")
    assert handler.lost_lines == 2
    assert capfd.readouterr() == ("", "")


def test_the_first_line_afterwards_says_how_many_were_lost(
    pipe: tuple[int, io.TextIOWrapper],
) -> None:
    reader, stream = pipe
    handler, logger = handler_of(stream)
    logger.warning("before")
    with contextlib.suppress(BlockingIOError):
        while True:  # no room is left
            os.write(stream.fileno(), b" ")
    for _ in range(3):
        logger.warning("lost")
    text = os.read(reader, 65536).decode()
    logger.warning("after")
    logger.warning("later")
    text += os.read(reader, 65536).decode()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == ["before", "log lines lost", "after", "later"]
    assert lines[1]["count"] == handler.lost_lines == 3


def test_a_long_line_that_found_room_for_a_part_goes_on_before_the_next(
    pipe: tuple[int, io.TextIOWrapper],
) -> None:
    reader, stream = pipe
    handler, logger = handler_of(stream)
    logger.warning("long %s", "x" * 10_000)
    text = ""
    for _ in range(4):  # each time one page is free
        text += os.read(reader, 4096).decode()
        logger.warning("short")
    text += os.read(reader, 4096).decode()
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert events == ["long " + "x" * 10_000, "log lines lost", *["short"] * 3]
    assert handler.lost_lines == 1


def test_a_record_that_cannot_be_formatted_is_named_without_its_words() -> None:
    stream = io.StringIO()
    handler, logger = handler_of(stream)
    logger.warning("%d", "DOE^JOHN")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["event"], line["error_type"]) == ("line not readable", "TypeError")
    assert line["where"].startswith("test_line_handler:") and "DOE" not in stream.getvalue()
    assert handler.lost_lines == 0


def test_a_line_does_not_wait_in_the_buffer_of_its_stream() -> None:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    assert not stream.line_buffering
    _, logger = handler_of(stream)
    logger.warning("at once")
    assert json.loads(os.read(reader, 4096))["event"] == "at once"
    stream.close()
    os.close(reader)
