"""Receiving on loopback: who may send what, and how it is answered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.dicom_node.selection import UnreadableObject
from tests.service.node_hospital import Hospital, metric
from tests.service.node_peers import running, store, until, xray

pynetdicom = pytest.importorskip("pynetdicom")
from pynetdicom import AE  # noqa: E402

# pynetdicom leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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


def test_an_xray_is_received_in_each_transfer_syntax(hospital: Hospital) -> None:
    from service.dicom_node.receiving import STORAGE_CLASSES, TRANSFER_SYNTAXES

    entity = AE("MODALITY")
    for storage_class in STORAGE_CLASSES:
        entity.add_requested_context(storage_class, list(TRANSFER_SYNTAXES)[-1])
    with running(hospital.settings):
        association = entity.associate("127.0.0.1", hospital.port, ae_title="LUNGSEG")
        assert len(association.accepted_contexts) == len(STORAGE_CLASSES)
        association.release()
