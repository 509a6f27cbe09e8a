"""The node on loopback: what goes in, what comes out, and what a fault does."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.service.node_hospital import Hospital, metric
from tests.service.node_peers import Archive, archive, running, store, until, xray

pynetdicom = pytest.importorskip("pynetdicom")


# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_an_xray_comes_out_as_segmentation_picture_and_report(hospital: Hospital) -> None:
    sent = xray(1)
    with running(hospital.settings) as node:
        assert store(hospital.port, sent) == [0x0000]
        until(lambda: hospital.archive.kinds() == ["sc", "seg", "sr"])
        until(lambda: hospital.waiting() == 0)
        assert metric(node, "received_total", status="success") == 1
        assert metric(node, "segmented_total") == 1
        assert metric(node, "sent_total", destination="archive", kind="seg") == 1
        assert metric(node, "delivery_seconds_count") == 1
    for uid in hospital.archive.files:
        assert hospital.archive.read(uid).StudyInstanceUID == sent.StudyInstanceUID


def test_an_xray_sent_again_later_makes_the_same_objects(hospital: Hospital) -> None:
    sent = xray(1)
    with running(hospital.settings):
        for times in (1, 2):
            assert store(hospital.port, sent) == [0x0000]
            until(lambda times=times: _all_came(hospital.archive, times))  # type: ignore[misc]
            until(lambda: hospital.waiting() == 0)
    assert len(hospital.archive.files) == 3
    for first, second in hospital.archive.files.values():
        assert first == second


def _all_came(to: Archive, times: int) -> bool:
    return [len(files) for files in to.files.values()] == [times] * 3


def test_an_xray_sent_twice_while_it_waits_is_one_job(hospital: Hospital) -> None:
    hospital.archive.stop()
    sent = xray(1)
    with running(hospital.settings):
        assert store(hospital.port, sent, sent) == [0x0000, 0x0000]
        until(lambda: len(hospital.service.asked) == 1)
        assert store(hospital.port, sent) == [0x0000]
        assert hospital.waiting() == 1
        hospital.archive.start()
        until(lambda: hospital.waiting() == 0)
    assert len(hospital.service.asked) == 1
    assert [len(files) for files in hospital.archive.files.values()] == [1, 1, 1]


def test_a_destination_that_is_down_delays_and_loses_nothing(hospital: Hospital) -> None:
    hospital.archive.stop()
    with running(hospital.settings) as node:
        assert store(hospital.port, *(xray(number) for number in range(4))) == [0] * 4
        until(lambda: metric(node, "failures_total", target="archive") >= 1)
        assert metric(node, "waiting") == 4
        assert metric(node, "oldest_waiting_seconds") > 0
        hospital.archive.start()
        until(lambda: hospital.waiting() == 0)
    assert len(hospital.archive.files) == 12
    assert len(hospital.service.asked) == 4  # answers were kept, not asked for again


def test_what_waits_is_delivered_by_the_next_process(hospital: Hospital) -> None:
    hospital.archive.stop()
    with running(hospital.settings):
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: len(hospital.service.asked) == 1)
    hospital.archive.start()
    with running(hospital.settings):
        until(lambda: hospital.waiting() == 0)
    assert hospital.archive.kinds() == ["sc", "seg", "sr"]


def test_a_busy_service_is_asked_again_when_it_says(hospital: Hospital) -> None:
    busy = [True]

    def respond(data: bytes) -> Any:
        hospital.service.respond = None
        busy.clear()
        return 429, {"Retry-After": "1"}, b""

    hospital.service.respond = respond
    began = time.monotonic()
    with running(hospital.settings):
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: len(hospital.archive.files) == 3)
    assert time.monotonic() - began >= 1.0
    assert not busy


def test_an_xray_that_the_service_refuses_becomes_a_dead_letter(hospital: Hospital) -> None:
    problem = json.dumps({"code": "unsupported_transfer_syntax", "detail": "It is not read."})
    hospital.service.respond = lambda data: (415, {}, problem.encode())
    with running(hospital.settings) as node:
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: metric(node, "dead_letters") == 1)
    (reason,) = hospital.dead()
    assert "415 unsupported_transfer_syntax" in reason
    assert len(list((hospital.spool / "dead").glob("*/xray.dcm"))) == 1


def test_an_object_that_an_archive_refuses_becomes_a_dead_letter(hospital: Hospital) -> None:
    hospital.archive.status = 0xA900
    with running(hospital.settings_with(destination='results = ["seg"]')):
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: bool(hospital.dead()))
    assert hospital.dead() == ["archive: seg: it refuses the object (status A900).\n"]


def test_a_refused_object_keeps_no_other_and_no_other_archive_waiting(hospital: Hospital) -> None:
    hospital.archive.stop()
    hospital.archive.start(without="seg")
    with archive() as second:
        more = f"""
[[destinations]]
name = "second"
kind = "dimse"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {second.port}
"""
        with running(hospital.settings_with(more=more)):
            assert store(hospital.port, xray(1)) == [0x0000]
            until(lambda: bool(hospital.dead()))
        assert second.kinds() == ["sc", "seg", "sr"]
    assert hospital.archive.kinds() == ["sc", "sr"]
    (reason,) = hospital.dead()
    assert reason.startswith("archive: seg: it accepts no presentation context")


def test_an_archive_that_is_full_is_asked_again(hospital: Hospital) -> None:
    hospital.archive.status = 0xA700
    with running(hospital.settings) as node:
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: metric(node, "failures_total", target="archive") >= 2)
        hospital.archive.status = 0x0000
        until(lambda: hospital.waiting() == 0)
    assert len(hospital.archive.files) == 3


def test_what_waits_too_long_becomes_a_dead_letter(hospital: Hospital) -> None:
    hospital.archive.stop()
    settings = hospital.settings
    retry = settings.retry.model_copy(update={"give_up_after_s": 0.5})
    with running(settings.model_copy(update={"retry": retry})):
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: bool(hospital.dead()))
    assert "did not answer" in hospital.dead()[0]


def test_a_mask_that_must_not_be_trusted_is_not_sent_but_the_report_is(hospital: Hospital) -> None:
    hospital.service.warnings = "lossy_precision,not_a_chest"
    with running(hospital.settings):
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: hospital.waiting() == 0)
    assert hospital.archive.kinds() == ["sr"]


def test_a_further_warning_can_be_a_reason(hospital: Hospital) -> None:
    hospital.service.warnings = "undecided_mask"
    segment = hospital.settings.segment.model_copy(update={"refuse_warnings": ("undecided_mask",)})
    with running(hospital.settings.model_copy(update={"segment": segment})):
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: hospital.waiting() == 0)
    assert hospital.archive.kinds() == ["sr"]


def test_outlines_must_not_be_trusted_more_than_masks(hospital: Hospital) -> None:
    hospital.service.warnings = "not_a_chest"
    with running(hospital.settings_with(destination='results = ["gsps", "sr"]')):
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: hospital.waiting() == 0)
    assert hospital.archive.kinds() == ["sr"]


def test_it_is_sent_all_the_same_where_the_destination_says_so(hospital: Hospital) -> None:
    hospital.service.warnings = "not_a_chest"
    with running(hospital.settings_with(destination="send_refused_masks = true")):
        assert store(hospital.port, xray(1)) == [0x0000]
        until(lambda: hospital.waiting() == 0)
    assert hospital.archive.kinds() == ["sc", "seg", "sr"]


def test_each_destination_gets_what_it_wants(hospital: Hospital) -> None:
    with archive() as second:
        more = f"""
[[destinations]]
name = "light"
kind = "dimse"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {second.port}
results = ["gsps"]
"""
        with running(hospital.settings_with(more=more)):
            assert store(hospital.port, xray(1)) == [0x0000]
            until(lambda: hospital.waiting() == 0)
        assert second.kinds() == ["gsps"]
    assert hospital.archive.kinds() == ["sc", "seg", "sr"]


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Modality": "MG"}, "modality"),
        ({"BodyPartExamined": "HAND"}, "body_part"),
        ({"ViewPosition": "LL"}, "view"),
    ],
)
def test_what_is_no_frontal_chest_is_taken_and_counted(
    hospital: Hospital, attributes: dict[str, str], reason: str
) -> None:
    with running(hospital.settings) as node:
        assert store(hospital.port, xray(1, **attributes)) == [0x0000]
        assert metric(node, "skipped_total", reason=reason) == 1
        assert hospital.waiting() == 0
        assert list((hospital.spool / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"BodyPartExamined": "TORAX"},
        {"BodyPartExamined": "PORTABLE"},
        {"ViewPosition": ""},
        {"Modality": None, "BodyPartExamined": None, "ViewPosition": None},
    ],
)
def test_what_may_be_a_frontal_chest_is_segmented(
    hospital: Hospital, attributes: dict[str, Any]
) -> None:
    with running(hospital.settings):
        assert store(hospital.port, xray(1, **attributes)) == [0x0000]
        until(lambda: len(hospital.archive.files) == 3)


def test_no_name_reaches_a_log_a_file_name_or_a_metric(
    hospital: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    from prometheus_client import generate_latest

    caplog.set_level("DEBUG", logger="service")
    canary = "ZEBEDEECANARY"
    with running(hospital.settings) as node:
        hospital.archive.status = 0xA900
        named = xray(1, PatientName=canary, PatientID=canary, StudyDescription=canary)
        assert store(hospital.port, named) == [0x0000]
        until(lambda: bool(hospital.dead()))
        scraped = generate_latest(node.metrics.registry).decode()
    said = caplog.text + str([getattr(one, "fields", "") for one in caplog.records])
    names = " ".join(str(path) for path in hospital.spool.rglob("*"))
    assert canary not in said + scraped + names + " ".join(hospital.dead())
