"""Ids from outside are taken only when they cannot do harm."""

from __future__ import annotations

import pytest

from service.request_record import new_record, server_timing

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("given", ["a", "A-1_b.c:9", "x" * 128])
def test_a_good_request_id_is_kept(given: str) -> None:
    """Letters, digits and ._:-."""
    assert new_record({"x-request-id": given}).request_id == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "a\nb", "é", "<script>", "a/b"])
def test_a_bad_request_id_is_replaced(given: str) -> None:
    """By a fresh one."""
    made = new_record({"x-request-id": given}).request_id
    assert made != given
    assert len(made) == 32


def test_trace_ids_come_from_valid_headers_only() -> None:
    """W3C trace context, level 1."""
    assert new_record({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}).trace_id == TRACE
    bad = ["", TRACE, f"ff-{TRACE}-b7ad6b7169203331-01", f"00-{'0' * 32}-b7ad6b7169203331-01"]
    bad += [f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-b7ad6b7169203331-01"]
    assert [new_record({"traceparent": value}).trace_id for value in bad] == [None] * len(bad)


def test_server_timing_lists_stages_and_total() -> None:
    """Milliseconds."""
    record = new_record({})
    record.stage_seconds["decode"] = 0.0123
    assert server_timing(record).startswith("decode;dur=12.3, total;dur=")


def test_times_may_come_while_they_are_read() -> None:
    """An image thread whose caller has met the deadline still writes its own."""
    record = new_record({})
    record.stage_seconds |= {"decode": 0.1, "preprocess": 0.2}
    seen = []
    for stage, _ in record.stages():
        seen.append(stage)
        record.stage_seconds[f"{stage} again"] = 0.3
    assert seen == ["decode", "preprocess"]
