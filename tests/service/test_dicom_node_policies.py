"""What an operator decides about a node: several services, TLS on both sides, what is kept."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from tests.service.node_peers import (
    STORED,
    archive,
    free_port,
    node_settings,
    running,
    service,
    store,
    until,
    xray,
)

pytest.importorskip("pynetdicom")
from pynetdicom import AE, evt

from service.dicom_node.node import faults_of
from service.dicom_node.settings import DimseDestination, NodeSettings, ServiceSettings, TlsSettings
from service.dicom_node.spool import Spool

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Generator[None, None, None]:
    """Collect the sockets that pynetdicom leaves, while the mark above is in force."""
    yield
    gc.collect()


def waiting(folder: Path) -> int:
    return len(list((folder / "jobs").iterdir()))


def with_services(settings: NodeSettings, *urls: str) -> NodeSettings:
    services = tuple(ServiceSettings(url=url) for url in urls)
    segment = settings.segment.model_copy(update={"services": services, "parallel": 2})
    return settings.model_copy(update={"segment": segment})


def test_two_services_share_the_xrays(tmp_path: Path) -> None:
    port = free_port()
    together = threading.Barrier(2, timeout=20)  # broken unless both are asked at a time
    with service() as one, service() as other, archive() as to:
        settings = node_settings(tmp_path, one.url, to.port, port)

        def wait_for_the_other(data: bytes) -> Any:
            together.wait()
            return 503, {"Retry-After": "0"}, b""

        one.respond = other.respond = wait_for_the_other
        with running(with_services(settings, one.url, other.url)):
            assert store(port, xray(1), xray(2)) == [0, 0]
            until(lambda: bool(one.asked and other.asked))
            one.respond = other.respond = None
            until(lambda: len(to.files) == 6)


def test_an_xray_does_not_wait_for_a_busy_service_when_another_is_free(tmp_path: Path) -> None:
    port = free_port()
    with service() as busy, service() as free, archive() as to:
        busy.respond = lambda data: (429, {"Retry-After": "50"}, b"")
        settings = with_services(
            node_settings(tmp_path, busy.url, to.port, port), busy.url, free.url
        )
        began = time.monotonic()
        with running(settings):
            assert store(port, xray(1), xray(2), xray(3)) == [0, 0, 0]
            until(lambda: len(to.files) == 9, timeout_s=20)
        assert time.monotonic() - began < 20
        assert len(busy.asked) <= 2  # at a time at the most, and then no more
        assert len(free.asked) == 3


def test_what_is_delivered_stays_as_long_as_the_operator_says(tmp_path: Path) -> None:
    port = free_port()
    with service() as asked, archive() as to:
        settings = node_settings(tmp_path, asked.url, to.port, port)
        spool = settings.spool.model_copy(update={"keep_delivered_s": 3600.0})
        with running(settings.model_copy(update={"spool": spool})) as node:
            assert store(port, xray(1), xray(2)) == [0, 0]
            until(lambda: waiting(tmp_path) == 0)
            node.clear_stale()
            kept = sorted((tmp_path / "delivered").iterdir())
            assert len(kept) == 2
            assert pydicom.dcmread(kept[0] / "xray.dcm").Modality == "DX"
            assert {path.name for path in (kept[0] / "answer").iterdir()} == {
                "answer.json", "seg.dcm", "sc.dcm", "sr.dcm",
            }  # fmt: skip
            os.utime(kept[0], (0, time.time() - 3601))
            node.clear_stale()
            assert list((tmp_path / "delivered").iterdir()) == kept[1:]
        with running(settings) as node:  # the policy of deleting at once
            node.clear_stale()
            assert list((tmp_path / "delivered").iterdir()) == []
            assert store(port, xray(3)) == [0]
            until(lambda: waiting(tmp_path) == 0 and len(to.files) == 9)
            assert list((tmp_path / "delivered").iterdir()) == []


def test_what_is_delivered_makes_room_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 10**9, 1000)
    received = spool.incoming / "one"
    received.write_bytes(b"x" * 500)
    spool.finish(spool.keep(received), is_kept=True)
    usage = shutil.disk_usage(tmp_path)

    def short(path: Path) -> Any:
        return usage._replace(free=10**6 if not list((tmp_path / "delivered").iterdir()) else 10)

    monkeypatch.setattr("service.dicom_node.spool.shutil.disk_usage", short)
    spool.require_room(500)
    assert list((tmp_path / "delivered").iterdir()) == []
    spool.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`node.pem` and `peer.pem`, which trust each other, and `stranger.pem`; keys beside them."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: TLS of the node was NOT tested")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("node", "peer", "stranger"):
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
            f"-subj /CN={name} -keyout {name}.key -out {name}.pem"
        )
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


def tls_of(folder: Path, own: str, other: str) -> TlsSettings:
    return TlsSettings(
        certificate=folder / f"{own}.pem",
        key=folder / f"{own}.key",
        trusted=folder / f"{other}.pem",
    )


def context_of(tls: TlsSettings, purpose: ssl.Purpose) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cafile=str(tls.trusted))
    context.load_cert_chain(tls.certificate, tls.key)
    context.check_hostname, context.verify_mode = False, ssl.CERT_REQUIRED
    return context


@contextlib.contextmanager
def tls_archive(folder: Path) -> Generator[tuple[int, list[str]], None, None]:
    """An archive that talks TLS alone, to a peer with a certificate that it knows."""
    stored: list[str] = []
    entity, port = AE("ARCHIVE"), free_port()
    entity.supported_contexts = []
    for uid in (*STORED, "1.2.840.10008.1.1"):
        entity.add_supported_context(uid)

    def keep(event: Any) -> int:
        stored.append(STORED[event.dataset.SOPClassUID])
        return 0x0000

    server = entity.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, keep)],
        ssl_context=context_of(tls_of(folder, "peer", "node"), ssl.Purpose.CLIENT_AUTH),
    )
    assert server is not None
    try:
        yield port, stored
    finally:
        server.shutdown()


def sent_over_tls(port: int, tls: TlsSettings) -> int | None:
    entity, dataset = AE("MODALITY"), xray(1)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    context = context_of(tls, ssl.Purpose.SERVER_AUTH)
    association = entity.associate(
        "127.0.0.1", port, ae_title="LUNGSEG", tls_args=(context, "node")
    )  # fmt: skip
    if not association.is_established:
        return None
    status = association.send_c_store(dataset)
    association.release()
    return int(status.Status) if "Status" in status else None


def test_both_sides_talk_tls_to_known_certificates_alone(
    tmp_path: Path, certificates: Path
) -> None:
    port, own = free_port(), tls_of(certificates, "node", "peer")
    with service() as asked, tls_archive(certificates) as (archive_port, stored):
        settings = node_settings(tmp_path, asked.url, archive_port, port)
        (destination,) = settings.destinations
        assert isinstance(destination, DimseDestination)
        settings = settings.model_copy(
            update={
                "receive": settings.receive.model_copy(update={"tls": own}),
                "destinations": (destination.model_copy(update={"tls": own}),),
            }
        )
        assert faults_of(settings) == []
        with running(settings):
            assert store(port, xray(2), timeout_s=3.0) == [None]  # without TLS
            assert sent_over_tls(port, tls_of(certificates, "stranger", "node")) is None
            assert sent_over_tls(port, tls_of(certificates, "peer", "node")) == 0x0000
            until(lambda: waiting(tmp_path) == 0 and len(stored) == 3)
    assert sorted(stored) == ["sc", "seg", "sr"]


def test_check_says_that_an_archive_s_certificate_is_not_trusted(
    tmp_path: Path, certificates: Path
) -> None:
    own = tls_of(certificates, "node", "stranger")
    with service() as asked, tls_archive(certificates) as (archive_port, _):
        settings = node_settings(tmp_path, asked.url, archive_port, free_port())
        (destination,) = settings.destinations
        settings = settings.model_copy(
            update={"destinations": (destination.model_copy(update={"tls": own}),)}
        )
        (fault,) = faults_of(settings)
    assert fault.startswith("destination archive:")
