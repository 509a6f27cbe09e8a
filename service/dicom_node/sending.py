"""Sending of results to archives, by C-STORE or by STOW-RS."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ComprehensiveSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    Verification,
)

from service.dicom_node.connecting import with_right_proxies
from service.dicom_node.settings import (
    Destination,
    DimseDestination,
    RetrySettings,
    StowDestination,
    TlsSettings,
    first_line,
)

STORAGE_CLASSES = {
    "seg": SegmentationStorage,
    "sc": SecondaryCaptureImageStorage,
    "sr": ComprehensiveSRStorage,
    "gsps": GrayscaleSoftcopyPresentationStateStorage,
}
_WARNINGS = range(0xB000, 0xC000)  # stored with a warning (PS3.4 B.2.3)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_BUSY_STATUSES = (408, 429, 500, 502, 503, 504)


class DestinationDown(Exception):  # noqa: N818 - names what happened
    """The destination cannot accept objects now; the message tells the operator why."""


class ObjectRefused(Exception):  # noqa: N818 - names what happened
    """The destination will never accept this object; the message says why."""


class Connection(Protocol):
    """Sends objects until it is closed."""

    def send(self, file: Path) -> None:
        """Send one object and wait until the destination confirms it.

        Raises:
            DestinationDown: the destination cannot accept it now.
            ObjectRefused: the destination will never accept it.
        """

    def close(self) -> None:
        """Close the connection."""


def connect(destination: Destination, own_title: str, kinds: Sequence[str]) -> Connection:
    """Open a connection.

    Args:
        destination: archive that gets the objects.
        own_title: the node's AE title.
        kinds: kinds of objects to send.

    Raises:
        DestinationDown: it does not answer, or not like an archive.
    """
    if isinstance(destination, StowDestination):
        return _StowConnection(destination)
    return _DimseConnection(destination, own_title, kinds)


def fault_of(destination: Destination, own_title: str) -> str | None:
    """Return the fault of a destination in a sentence; None without one.

    A DIMSE destination must answer C-ECHO and accept each kind of object; a DICOMweb one must
    answer a search.
    """
    try:
        connection = connect(destination, own_title, destination.results)
        try:
            if isinstance(connection, _DimseConnection):
                connection.require_contexts()
            else:
                connection.search()  # type: ignore[attr-defined]
        finally:
            connection.close()
    except (DestinationDown, ObjectRefused) as error:
        return str(error)
    return None


class _DimseConnection:
    """One association."""

    def __init__(self, destination: DimseDestination, own_title: str, kinds: Sequence[str]) -> None:
        _config.STORE_SEND_CHUNKED_DATASET = True  # files are sent in pieces, unparsed
        entity = AE(own_title)
        entity.acse_timeout = entity.dimse_timeout = destination.timeout_s
        entity.network_timeout = entity.connection_timeout = destination.timeout_s
        entity.add_requested_context(Verification)
        self._kinds = list(kinds)
        for kind in kinds:
            entity.add_requested_context(STORAGE_CLASSES[kind], ExplicitVRLittleEndian)
        self._was_connected = False
        tls = (
            None if destination.tls is None else (client_context(destination.tls), destination.host)
        )
        self._association = entity.associate(
            destination.host,
            destination.port,
            ae_title=destination.ae_title,
            tls_args=tls,
            evt_handlers=[(evt.EVT_CONN_OPEN, self._note_connection)],
        )
        if not self._association.is_established:
            raise DestinationDown(self._why_not(destination))

    def _note_connection(self, event: Any) -> None:
        self._was_connected = True

    def _why_not(self, destination: DimseDestination) -> str:
        place = f"{destination.host} port {destination.port}"
        if self._association.is_rejected:
            return (
                f"{place} rejects the association: does it know our AE title, and is "
                f"{destination.ae_title} its own?"
            )
        if self._was_connected:
            return f"{place} aborts the association: is it a DICOM port, with or without TLS?"
        return f"{place} does not answer: is it started, and are address and port right?"

    def send(self, file: Path) -> None:
        try:
            status = self._association.send_c_store(file)
        except ValueError:  # no presentation context was accepted for it
            raise ObjectRefused("it accepts no presentation context for this object.") from None
        except RuntimeError:
            raise DestinationDown("the association was lost.") from None
        if "Status" not in status:
            raise DestinationDown("it closed the association or did not answer in time.")
        code = status.Status
        if code == 0x0000 or code in _WARNINGS:
            return
        if code in _OUT_OF_RESOURCES:
            raise DestinationDown(f"it is out of resources (status {code:04X}).")
        raise ObjectRefused(f"it refuses the object (status {code:04X}).")

    def require_contexts(self) -> None:
        """Send C-ECHO, and check that it accepts every kind of object."""
        status = self._association.send_c_echo()
        if "Status" not in status or status.Status != 0x0000:
            raise DestinationDown("it does not answer to C-ECHO.")
        accepted = {context.abstract_syntax for context in self._association.accepted_contexts}
        missing = [kind for kind in self._kinds if STORAGE_CLASSES[kind] not in accepted]
        if missing:
            raise ObjectRefused(
                f"it takes no {', '.join(missing)} in explicit VR little endian: enable these "
                "storage classes there, or leave them out of the destination's results."
            )

    def close(self) -> None:
        self._association.release()


class _StowConnection:
    """One session with a DICOMweb server."""

    def __init__(self, destination: StowDestination) -> None:
        session = requests.Session()
        if destination.username is not None and destination.password_file is not None:
            password = first_line(destination.password_file)
            session = create_session_from_user_pass(destination.username, password)
        with_right_proxies(session)
        if destination.trusted is not None:
            session.verify = str(destination.trusted)
        self._url = destination.url
        self._session = session
        self._client = DICOMwebClient(destination.url, session=session)
        self._client.set_http_retry_params(retry=False)
        self._timeout_s = destination.timeout_s

    def send(self, file: Path) -> None:
        dataset = pydicom.dcmread(BytesIO(file.read_bytes()))
        answer = self._checked(lambda: self._client.store_instances([dataset]))
        failed = answer.get("FailedSOPSequence")
        if failed:
            reason = failed[0].get("FailureReason", 0)
            raise ObjectRefused(f"it refuses the object (reason {reason:04X}).")

    def search(self) -> None:
        """Search for one study."""
        self._checked(lambda: self._client.search_for_studies(limit=1))

    def close(self) -> None:
        self._session.close()

    def _checked(self, call: Any) -> Any:
        try:
            return call()
        except requests.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            if status in (401, 403, 404, *_BUSY_STATUSES):
                raise DestinationDown(f"{self._url} answers {status}.") from None
            raise ObjectRefused(f"{self._url} answers {status}.") from None
        except (requests.RequestException, OSError):
            raise DestinationDown(
                f"{self._url} does not answer: is it started, and is the address right?"
            ) from None


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """Return the TLS context of a client with its own certificate."""
    context = ssl.create_default_context(cafile=tls.trusted)
    context.load_cert_chain(tls.certificate, tls.key)
    context.check_hostname = False  # certificates in hospitals hardly ever name hosts
    return context


class Rest:
    """The pause of one destination, which doubles while it is down."""

    def __init__(self, settings: RetrySettings) -> None:
        """Start without a pause."""
        self._settings = settings
        self._failures = 0
        self._until = 0.0

    def remaining_s(self, now: float) -> float:
        """Return the seconds until the destination may be tried again."""
        return max(0.0, self._until - now)

    def begin(self, now: float) -> None:
        """Record a failure."""
        pause_s = self._settings.first_pause_s * 2 ** min(self._failures, 20)
        self._failures += 1
        self._until = now + min(pause_s, self._settings.longest_pause_s)

    def end(self) -> None:
        """Record a success."""
        self._failures, self._until = 0, 0.0
