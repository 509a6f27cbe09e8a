"""The storage SCP: accepts X-rays from known senders, and answers success when they are on disk."""

from __future__ import annotations

import ipaddress
import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from socketserver import BaseServer
from typing import Any

from pynetdicom import AE, _config, dimse_messages, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from service.dicom_node.metrics import NodeMetrics
from service.dicom_node.received_file import ReceivedFile
from service.dicom_node.selection import UnreadableObject, reason_to_skip
from service.dicom_node.settings import ReceiveSettings, SelectSettings, TlsSettings
from service.dicom_node.spool import Job, Spool, SpoolFull

logger = logging.getLogger("service.dicom_node.receiving")

STORAGE_CLASSES = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
)
TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.2",  # explicit VR big endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.50",  # JPEG baseline
    "1.2.840.10008.1.2.4.51",  # JPEG extended
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first order
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
)
"""The transfer syntaxes that the service reads, so that senders need not decompress."""

SUCCESS = 0x0000
NOT_AUTHORIZED = 0x0124
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
_COMMAND_BYTES = 64 * 1024  # for the messages around an object
_PDU_BYTES = 65_536
"""Largest piece of a message; the library's default of 16 KB is slower for large X-rays."""
_STATUS_NAMES = {
    SUCCESS: "success",
    NOT_AUTHORIZED: "not_authorized",
    OUT_OF_RESOURCES: "out_of_resources",
    CANNOT_UNDERSTAND: "cannot_understand",
}


class Receiver:
    """Listens until it is stopped.

    Args:
        settings: senders and limits.
        select: what is segmented.
        spool: gets the X-rays.
        metrics: counts the objects.
        on_job: called with each new job, in the association's thread.
    """

    def __init__(
        self,
        settings: ReceiveSettings,
        select: SelectSettings,
        spool: Spool,
        metrics: NodeMetrics,
        on_job: Callable[[Job], None],
    ) -> None:
        """Keep the parts; nothing listens before `start`."""
        self._settings, self._select = settings, select
        self._spool, self._metrics, self._on_job = spool, metrics, on_job
        self._received_bytes: dict[int, int] = {}  # bytes since the last object, by association
        self._lock = threading.Lock()
        self._server: Any = None
        self._before = (_config.STORE_RECV_CHUNKED_DATASET, _made_files())

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address or port is not available, or a TLS file is not usable.
        """
        _config.STORE_RECV_CHUNKED_DATASET = True  # objects go to disk while they come
        incoming = self._spool.incoming  # so that keeping one is a rename
        _make_files(lambda **_: ReceivedFile(incoming))
        settings = self._settings
        entity = AE(settings.ae_title)
        entity.require_called_aet = True
        entity.require_calling_aet = sorted({sender.ae_title for sender in settings.senders})
        entity.maximum_associations = settings.max_associations
        entity.maximum_pdu_size = _PDU_BYTES
        entity.acse_timeout = settings.acse_timeout_s
        entity.dimse_timeout = settings.dimse_timeout_s
        entity.network_timeout = settings.network_timeout_s
        entity.add_supported_context(Verification)
        for storage_class in STORAGE_CLASSES:
            entity.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        handlers: list[Any] = [
            (evt.EVT_CONN_CLOSE, self._forget_connection),
            (evt.EVT_DATA_RECV, self._count_bytes),
            (evt.EVT_C_ECHO, self._answer_echo),
            (evt.EVT_C_STORE, self._answer_store),
        ]
        self._server = entity.make_server(
            (settings.host, settings.port),
            evt_handlers=handlers,
            ssl_context=None if settings.tls is None else server_context(settings.tls),
            server_class=_server_for(self._is_known_address),
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Accept no more; an object in transfer is refused, and its sender sends it again."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server = None
            _config.STORE_RECV_CHUNKED_DATASET, made_files = self._before
            _make_files(made_files)

    def _forget_connection(self, event: Any) -> None:
        """Drop the state of an association, and its unfinished object."""
        with self._lock:
            self._received_bytes.pop(id(event.assoc), None)
        unfinished = getattr(event.assoc.dimse.message, "_data_set_file", None)
        if unfinished is not None:  # pynetdicom neither closes nor deletes it
            unfinished.close()
            Path(unfinished.name).unlink(missing_ok=True)

    def _count_bytes(self, event: Any) -> None:
        """Abort an association whose object grows beyond the limit, before the disk is full."""
        with self._lock:
            total = self._received_bytes.get(id(event.assoc), 0) + len(event.data)
            self._received_bytes[id(event.assoc)] = total
        if total > self._settings.max_object_bytes + _COMMAND_BYTES:
            self._metrics.received.labels("too_large").inc()
            logger.warning("object_too_large")
            event.assoc.abort()

    def _answer_echo(self, event: Any) -> int:
        return SUCCESS if self._may_send(event) else NOT_AUTHORIZED

    def _answer_store(self, event: Any) -> int:
        with self._lock:
            self._received_bytes[id(event.assoc)] = 0
        status = self._store(event)
        self._metrics.received.labels(_STATUS_NAMES[status]).inc()
        return status

    def _store(self, event: Any) -> int:
        if not self._may_send(event):
            return NOT_AUTHORIZED
        file: ReceivedFile = event.request._dataset_file
        file.close()  # pynetdicom has buffered its end
        path = event.dataset_path
        try:
            if file.error is not None:
                raise file.error
            reason = reason_to_skip(path, self._select)
            if reason is not None:
                self._metrics.skipped.labels(reason).inc()
                logger.info("skipped", extra={"fields": {"reason": reason}})
                return SUCCESS  # it was received; it needs no processing
            self._spool.require_room(path.stat().st_size)
            job = self._spool.keep(path)
        except UnreadableObject:
            logger.warning("unreadable_object")
            return CANNOT_UNDERSTAND
        except (SpoolFull, OSError) as error:
            reason = getattr(error, "strerror", None) or "the spool is full"
            logger.error("out_of_resources", extra={"fields": {"reason": reason}})
            return OUT_OF_RESOURCES
        logger.info("received", extra={"fields": {"job": job.key}})
        self._on_job(job)
        return SUCCESS

    def _may_send(self, event: Any) -> bool:
        """Whether the title calls from one of its addresses."""
        requestor = event.assoc.requestor
        return any(
            sender.ae_title == requestor.ae_title.strip()
            and _is_within(requestor.address, sender.addresses)
            for sender in self._settings.senders
        )

    def _is_known_address(self, address: str) -> bool:
        if any(_is_within(address, sender.addresses) for sender in self._settings.senders):
            return True
        logger.warning("unknown_address", extra={"fields": {"address": address}})
        return False


def _made_files() -> Any:
    """Return the function by which pynetdicom creates its files."""
    return dimse_messages.NamedTemporaryFile  # type: ignore[attr-defined]


def _make_files(factory: Any) -> None:
    dimse_messages.NamedTemporaryFile = factory  # type: ignore[attr-defined]


def _server_for(is_known: Callable[[str], bool]) -> type[ThreadedAssociationServer]:
    """Return a server that closes connections from unknown addresses, unread."""

    class KnownAddressServer(ThreadedAssociationServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return is_known(client_address[0])

        def shutdown(self) -> None:
            BaseServer.shutdown(self)  # pynetdicom's own only finds servers that it started itself
            self.server_close()

    return KnownAddressServer


def server_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return the TLS context of a server that requires the client's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.trusted)
    context.load_cert_chain(tls.certificate, tls.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _is_within(address: str | None, networks: tuple[str, ...]) -> bool:
    if address is None:
        return False
    found = ipaddress.ip_address(address)
    return any(found in ipaddress.ip_network(network, strict=False) for network in networks)
