"""Fetch X-rays from a WADO-RS server into the spool, by their UIDs."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Iterator

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from service.dicom_node.connecting import with_right_proxies
from service.dicom_node.receiving import STORAGE_CLASSES
from service.dicom_node.selection import reason_to_skip
from service.dicom_node.settings import FetchSettings, SelectSettings, first_line
from service.dicom_node.spool import Job, Spool


class FetchFailed(Exception):  # noqa: N818 - names what happened
    """The server does not give the requested objects; the message says why."""


def fetch(
    settings: FetchSettings, select: SelectSettings, spool: Spool, uids: tuple[str, ...]
) -> tuple[list[Job], int]:
    """Put the requested X-rays into the spool.

    Args:
        settings: the server.
        select: rule for objects to segment.
        spool: spool for the X-rays.
        uids: UIDs of a study and, optionally, its series and instance.

    Returns:
        The jobs, and the number of skipped objects that are not frontal chest X-rays.

    Raises:
        FetchFailed: the server does not answer, or has nothing of these UIDs.
        SpoolFull: there is no room.
    """
    jobs: list[Job] = []
    skipped = 0
    try:
        for dataset in _datasets(settings, uids):
            path = spool.incoming / f"{uuid.uuid4().hex}.dcm"
            dataset.save_as(path, enforce_file_format=True)
            is_xray = dataset.get("SOPClassUID") in STORAGE_CLASSES
            if not is_xray or reason_to_skip(path, select) is not None:
                path.unlink()
                skipped += 1
                continue
            spool.require_room(path.stat().st_size)
            jobs.append(spool.keep(path))
    except requests.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        raise FetchFailed(f"{settings.url} answers {status}; does it have these UIDs?") from None
    except (requests.RequestException, ssl.SSLError):
        raise FetchFailed(f"{settings.url} does not answer.") from None
    return jobs, skipped


def _datasets(settings: FetchSettings, uids: tuple[str, ...]) -> Iterator[Dataset]:
    session = with_right_proxies(requests.Session())
    if settings.username is not None and settings.password_file is not None:
        session.auth = (settings.username, first_line(settings.password_file))
    if settings.trusted is not None:
        session.verify = str(settings.trusted)
    client = DICOMwebClient(settings.url, session=session)
    client.set_http_retry_params(retry=False)
    try:
        if len(uids) == 1:
            yield from client.retrieve_study(uids[0])
        elif len(uids) == 2:
            yield from client.retrieve_series(uids[0], uids[1])
        else:
            yield client.retrieve_instance(uids[0], uids[1], uids[2])
    finally:
        session.close()
