"""Those a node talks to, on loopback: a service that answers at once, an archive, a sender."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from model_store.pictures.dicom_display import read_grey_display
from service.dicom_node.node import Node
from service.dicom_node.settings import NodeSettings
from service.imaging.answered_masks import AnsweredMask
from service.imaging.dicom_header import read_source_header
from service.imaging.dicom_object import SegmentationMethod
from service.imaging.dicom_options import DEFAULT_OPTIONS
from service.imaging.dicom_results import DicomResults, multipart
from service.imaging.segment_request import DicomObject
from service.imaging.warning_advice import gravest
from tests.dicom_files import make_xray
from tests.service.fake_model import FakeInfo

DX = "1.2.840.10008.5.1.4.1.1.1.1"
STORED = {
    "1.2.840.10008.5.1.4.1.1.66.4": "seg",
    "1.2.840.10008.5.1.4.1.1.7": "sc",
    "1.2.840.10008.5.1.4.1.1.88.33": "sr",
    "1.2.840.10008.5.1.4.1.1.11.1": "gsps",
}
Respond = Callable[[bytes], tuple[int, Mapping[str, str], bytes]]


@contextlib.contextmanager
def running(settings: NodeSettings) -> Generator[Node, None, None]:
    """Runs a node within the block."""
    node = Node(settings)
    node.start()
    try:
        yield node
    finally:
        node.stop()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, "it did not come to pass in time"
        time.sleep(0.01)


def objects_of(xray: bytes, kinds: tuple[str, ...]) -> tuple[str, bytes]:
    """Return the media type and body that the service answers, with a mask of the X-ray's own."""
    dataset = pydicom.dcmread(io.BytesIO(xray))
    pixels = dataset.pixel_array
    mask = pixels > int(np.median(pixels))
    results = DicomResults(
        read_source_header(dataset),
        pixels,
        [AnsweredMask((0, 0, 64, 48), mask, 0.9, 0.95)],
        SegmentationMethod(FakeInfo(), "lung_field", 0.5),
        (),
        DEFAULT_OPTIONS,
        display=read_grey_display(dataset),
    )
    body, media_type = multipart([results.encode(DicomObject(kind)) for kind in kinds])
    return media_type, body


@dataclass
class FakeService:
    """Answers `POST /segment`.

    Attributes:
        url: where.
        asked: X-rays in the order in which they came.
        respond: answers instead, when set.
        warnings: codes that every answer carries.
        models: those that are served, the first answers who asks for none.
        key: the one key that it takes; none is asked for when empty.
    """

    url: str = ""
    asked: list[bytes] = field(default_factory=list)
    respond: Respond | None = None
    warnings: str = ""
    models: tuple[str, ...] = ("lungs/6",)
    key: str = ""

    def chosen(self, query: Mapping[str, list[str]]) -> str | None:
        """Return the model that a request means, by the rules of the service."""
        (wanted,) = query.get("model", [self.models[0]])
        found = [one for one in self.models if wanted in (one, one.partition("/")[0])]
        return found[0] if found else None


@contextlib.contextmanager
def service() -> Generator[FakeService, None, None]:
    made = FakeService()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/readyz" and not self._is_admitted():
                return
            pairs = (one.split("/") for one in made.models)
            models = [{"model": {"name": name, "version": version}} for name, version in pairs]
            self._say(200, {}, json.dumps({"models": models}).encode())

        def _is_admitted(self) -> bool:
            is_admitted = not made.key or self.headers["Authorization"] == f"Bearer {made.key}"
            if not is_admitted:
                self._refuse(403, "unknown_key")
            return is_admitted

        def _refuse(self, status: int, code: str) -> None:
            self._say(status, {}, json.dumps({"code": code, "detail": "It is so."}).encode())

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            made.asked.append(data)
            assert self.headers["Content-Type"] == "application/dicom"
            if made.respond is not None:
                self._say(*made.respond(data))
                return
            if not self._is_admitted():
                return
            query = parse_qs(urlsplit(self.path).query)
            model = made.chosen(query)
            if model is None:
                self._refuse(422, "unknown_model")
                return
            kinds = query["objects"][0].split(",")
            media_type, body = objects_of(data, tuple(kinds))
            headers = {"Content-Type": media_type, "X-Lungseg-Warnings": made.warnings}
            headers["X-Lungseg-Model"] = model
            codes = [code for code in made.warnings.split(",") if code]
            headers["X-Lungseg-Severity"] = str(gravest(codes) or "")
            self._say(200, headers, body)

        def _say(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Archive:
    """Takes what it is sent.

    Attributes:
        port: where it listens.
        files: the bytes of each object, by its UID, in the order in which they came.
        status: what it answers, 0 for success.
    """

    port: int
    files: dict[str, list[bytes]] = field(default_factory=dict)
    status: int = 0x0000
    _server: Any = None

    def start(self, without: str = "") -> None:
        """Listen; one kind of object can be left out."""
        entity = AE("ARCHIVE")
        for sop_class in (*STORED, "1.2.840.10008.1.1"):
            if STORED.get(sop_class) != without:
                entity.add_supported_context(sop_class)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._take)]
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers
        )

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def kinds(self) -> list[str]:
        """Return the sorts of the objects that it holds, sorted."""
        return sorted(STORED[str(self.read(uid).SOPClassUID)] for uid in self.files)

    def read(self, uid: str) -> Dataset:
        return pydicom.dcmread(io.BytesIO(self.files[uid][-1]))

    def _take(self, event: Any) -> int:
        if self.status == 0:
            uid = str(event.request.AffectedSOPInstanceUID)
            self.files.setdefault(uid, []).append(_file_of(event))
        return self.status


def _file_of(event: Any) -> bytes:
    """Return what was sent, whether or not a node in this process has it sent to disk."""
    file = event.request._dataset_file
    if file is None:
        return bytes(event.encoded_dataset())
    file.flush()
    return bytes(event.dataset_path.read_bytes())


@contextlib.contextmanager
def archive(port: int | None = None) -> Generator[Archive, None, None]:
    made = Archive(port or free_port())
    made.start()
    try:
        yield made
    finally:
        made.stop()


def settings_text(
    spool: Path, url: str, archive_port: int, port: int, *, more: str = "", destination: str = ""
) -> str:
    """Return a node's TOML file."""
    return f"""
[spool]
folder = "{spool}"
min_free_bytes = 0

[receive]
host = "127.0.0.1"
port = {port}
senders = [{{ ae_title = "MODALITY", addresses = ["127.0.0.1"] }}]

[segment]
services = [{{ url = "{url}" }}]
timeout_s = 20

[retry]
first_pause_s = 0.2
longest_pause_s = 1

[metrics]
port = 0

[[destinations]]
name = "archive"
kind = "dimse"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive_port}
{destination}
{more}
"""


def node_settings(*arguments: Any, **named: Any) -> NodeSettings:
    import tomllib

    return NodeSettings(**tomllib.loads(settings_text(*arguments, **named)))


def xray(number: int = 0, **attributes: Any) -> Dataset:
    """Return an X-ray that differs from the others."""
    pixels = np.random.default_rng(number).integers(0, 4096, (48, 64), dtype=np.uint16)
    return make_xray(pixels, **attributes)


def store(
    port: int,
    *datasets: Dataset,
    title: str = "MODALITY",
    called: str = "LUNGSEG",
    timeout_s: float = 10.0,
) -> list[int | None]:
    """Send X-rays over one association.

    Returns:
        The status of each, None where no answer came.
    """
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout_s
    entity.connection_timeout = timeout_s
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return [None] * len(datasets)
    found: list[int | None] = []
    for dataset in datasets:
        try:
            status = association.send_c_store(dataset)
        except (RuntimeError, ValueError):
            found.append(None)
            continue
        found.append(status.get("Status"))
    association.release()
    return found
