"""The node on loopback: what goes in, what comes out, and what a fault does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.dicom_node.selection import UnreadableObject
from tests.service.node_peers import (
    Archive,
    FakeService,
    archive,
    free_port,
    node_settings,
    running,
    service,
    settings_text,
    store,
    until,
    xray,
)

pynetdicom = pytest.importorskip("pynetdicom")
from pynetdicom import AE  # noqa: E402

from service.dicom_node.__main__ import EXIT_FAULT, EXIT_SETTINGS  # noqa: E402
from service.dicom_node.node import Node, faults_of  # noqa: E402
from service.dicom_node.settings import (  # noqa: E402
    NodeSettings,
    NodeSettingsError,
    read_node_settings,
)
from service.dicom_node.spool import Spool, SpoolInUse  # noqa: E402

# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Hospital:
    """A node with all that it talks to."""

    def __init__(self, folder: Path, asked: FakeService, to: Archive) -> None:
        self.spool = folder / "spool"
        self.port = free_port()
        self.service, self.archive = asked, to
        self.settings = self.settings_with()

    def settings_with(self, **named: Any) -> NodeSettings:
        return node_settings(self.spool, self.service.url, self.archive.port, self.port, **named)

    def waiting(self) -> int:
        return len(list((self.spool / "jobs").iterdir()))

    def dead(self) -> list[str]:
        return [path.read_text() for path in (self.spool / "dead").glob("*/reason.txt")]


@pytest.fixture
def hospital(tmp_path: Path) -> Generator[Hospital, None, None]:
    with service() as asked, archive() as to:
        yield Hospital(tmp_path, asked, to)


def metric(node: Node, name: str, **labels: str) -> float:
    return node.metrics.registry.get_sample_value(f"lungseg_node_{name}", labels) or 0.0


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


def test_strangers_are_refused(hospital: Hospital) -> None:
    with running(hospital.settings):
        assert store(hospital.port, xray(1), title="STRANGER") == [None]
        assert store(hospital.port, xray(1), called="OTHER") == [None]
    elsewhere = hospital.settings.receive.model_copy(
        update={
            "senders": (
                hospital.settings.receive.senders[0].model_copy(
                    update={"addresses": ("192.0.2.0/24",)}
                ),
            )
        }
    )
    with running(hospital.settings.model_copy(update={"receive": elsewhere})):
        assert store(hospital.port, xray(1)) == [None]


def test_it_answers_to_an_echo(hospital: Hospital) -> None:
    entity = AE("MODALITY")
    entity.add_requested_context("1.2.840.10008.1.1")
    with running(hospital.settings):
        association = entity.associate("127.0.0.1", hospital.port, ae_title="LUNGSEG")
        assert association.send_c_echo().Status == 0x0000
        association.release()


def test_a_full_spool_is_said_to_the_sender(hospital: Hospital) -> None:
    hospital.archive.stop()
    spool = hospital.settings.spool.model_copy(update={"max_bytes": 20_000})
    with running(hospital.settings.model_copy(update={"spool": spool})) as node:
        found = store(hospital.port, *(xray(number) for number in range(6)))
        assert found[0] == 0x0000
        assert found[-1] == 0xA700
        assert metric(node, "received_total", status="out_of_resources") >= 1
        assert list((hospital.spool / "incoming").iterdir()) == []


def test_an_object_beyond_the_limit_is_cut_off(hospital: Hospital) -> None:
    receive = hospital.settings.receive.model_copy(update={"max_object_bytes": 100_000})
    big = xray(1)
    large = np.zeros((800, 800), np.uint16)
    big.Rows, big.Columns, big.PixelData = 800, 800, large.tobytes()
    with running(hospital.settings.model_copy(update={"receive": receive})):
        assert store(hospital.port, big) == [None]
        assert store(hospital.port, xray(2)) == [0x0000]
        until(lambda: len(hospital.archive.files) == 3)
        until(lambda: not list((hospital.spool / "incoming").iterdir()))


def test_bytes_that_are_no_dicom_are_refused(hospital: Hospital, monkeypatch: Any) -> None:
    from service.dicom_node import receiving

    def unreadable(*_: Any) -> None:
        raise UnreadableObject

    monkeypatch.setattr(receiving, "reason_to_skip", unreadable)
    with running(hospital.settings):
        assert store(hospital.port, xray(1)) == [0xC000]


def test_four_associations_at_once_lose_nothing(hospital: Hospital) -> None:
    import threading

    found: list[list[int | None]] = []
    with running(hospital.settings):
        threads = [
            threading.Thread(
                target=lambda first=first: found.append(
                    store(hospital.port, *(xray(first * 10 + n) for n in range(5)), timeout_s=60)
                )
            )
            for first in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: hospital.waiting() == 0, timeout_s=60)
    assert found == [[0] * 5] * 4
    assert len(hospital.archive.files) == 60


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


def test_two_nodes_do_not_share_a_spool(tmp_path: Path) -> None:
    first = Spool(tmp_path, 10**9, 0)
    with pytest.raises(SpoolInUse):
        Spool(tmp_path, 10**9, 0)
    first.close()
    Spool(tmp_path, 10**9, 0).close()


def test_check_says_what_is_wrong_in_a_sentence_each(hospital: Hospital) -> None:
    assert faults_of(hospital.settings) == []
    hospital.archive.stop()
    (fault,) = faults_of(hospital.settings)
    assert fault.startswith("destination archive: 127.0.0.1 port")
    assert "does not answer" in fault


def test_check_says_which_storage_class_is_missing(hospital: Hospital) -> None:
    entity = AE("ARCHIVE")
    for sop_class in ("1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.7"):
        entity.add_supported_context(sop_class)
    hospital.archive.stop()
    server = entity.start_server(("127.0.0.1", hospital.archive.port), block=False)
    try:
        (fault,) = faults_of(hospital.settings)
    finally:
        assert server is not None
        server.shutdown()
    assert "takes no seg, sr in explicit VR little endian" in fault


def test_check_says_which_title_is_wrong(hospital: Hospital) -> None:
    entity = AE("OTHER")
    entity.require_called_aet = True
    entity.add_supported_context("1.2.840.10008.1.1")
    hospital.archive.stop()
    server = entity.start_server(("127.0.0.1", hospital.archive.port), block=False)
    try:
        (fault,) = faults_of(hospital.settings)
    finally:
        assert server is not None
        server.shutdown()
    assert "rejects the association" in fault
    assert "ARCHIVE" in fault


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.dicom_node", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_checks_and_refuses(hospital: Hospital, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    text = settings_text(hospital.spool, hospital.service.url, hospital.archive.port, free_port())
    config.write_text(text)
    checked = run_command("--config", str(config), "--check")
    assert (checked.returncode, checked.stdout) == (0, "Everything answers.\n")
    hospital.archive.stop()
    checked = run_command("--config", str(config), "--check")
    assert checked.returncode == EXIT_FAULT
    assert "does not answer" in checked.stdout
    config.write_text("receive = 1")
    refused = run_command("--config", str(config))
    assert refused.returncode == EXIT_SETTINGS
    assert "is not usable" in refused.stderr


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ('ae_title = "ARCHIVE"', 'ae_title = "A TITLE THAT IS TOO LONG"', "ae_title"),
        ('addresses = ["127.0.0.1"]', 'addresses = ["nowhere"]', "addresses"),
        ('kind = "dimse"', 'kind = "fax"', "kind"),
        ("timeout_s = 20", "timeout_s = 0", "timeout_s"),
        ("timeout_s = 20", "tmeout_s = 20", "tmeout_s"),
        ("timeout_s = 20", 'model = "lungs/6/7"', "segment.model"),
        ("timeout_s = 20", 'model = ""', "segment.model"),
        ('name = "archive"', 'name = "with space"', "name"),
        ("[spool]", "[spol]", "spo"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(
    tmp_path: Path, before: str, after: str, named: str
) -> None:
    config = tmp_path / "node.toml"
    text = settings_text(tmp_path, "http://127.0.0.1:1", 104, 11112)
    assert before in text
    config.write_text(text.replace(before, after))
    with pytest.raises(NodeSettingsError, match=named):
        read_node_settings(config)


def test_an_xray_is_received_in_each_transfer_syntax(hospital: Hospital) -> None:
    from service.dicom_node.receiving import STORAGE_CLASSES, TRANSFER_SYNTAXES

    entity = AE("MODALITY")
    for storage_class in STORAGE_CLASSES:
        entity.add_requested_context(storage_class, list(TRANSFER_SYNTAXES)[-1])
    with running(hospital.settings):
        association = entity.associate("127.0.0.1", hospital.port, ae_title="LUNGSEG")
        assert len(association.accepted_contexts) == len(STORAGE_CLASSES)
        association.release()
