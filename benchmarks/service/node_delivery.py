"""The time of an X-ray through the node into Orthanc, and the node's memory with 200 at once.

`python -m benchmarks.service.node_delivery [--single 15] [--many 200]` starts the service, a node
and Debian's Orthanc on loopback. It sends X-rays of 2048 x 2048 pixels one by one, and measures the
time from the end of C-STORE until segmentation, secondary capture and report are in Orthanc. Then
it sends many over four concurrent associations, waits until all results are stored, and reads the
node's peak memory. The goals are a median of 1.5 s, no lost X-ray and 300 MB; the exit code is 1 if
one is missed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE

from benchmarks.processor import processor_name
from benchmarks.service.dicom_reading import windowed_xray
from benchmarks.service.server_process import running_server

MOST_MEDIAN_S, MOST_NODE_BYTES = 1.5, 300e6
ORTHANC = "/usr/sbin/Orthanc"
_ASSOCIATIONS = 4
_RESULTS = 3
_NODE = """
[spool]
folder = "{spool}"
[receive]
host = "127.0.0.1"
port = {node_port}
senders = [{{ ae_title = "MODALITY", addresses = ["127.0.0.1"] }}]
[segment]
services = [{{ url = "http://127.0.0.1:{service_port}" }}]
[metrics]
port = 0
[[destinations]]
name = "orthanc"
kind = "dimse"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {orthanc_port}
send_refused_masks = true
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: command-line arguments; those of the process when None.

    Returns:
        Exit code of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--single", type=int, default=15, help="X-rays one by one")
    parser.add_argument("--many", type=int, default=200, help="X-rays over four associations")
    parser.add_argument("--patience-s", type=float, default=600.0, help="for all of the many")
    asked = parser.parse_args(arguments)
    if shutil.which("Orthanc") is None and not Path(ORTHANC).exists():
        print("Orthanc is not installed (Debian: orthanc)", file=sys.stderr)
        return 2
    original = pydicom.dcmread(io.BytesIO(windowed_xray()))
    with tempfile.TemporaryDirectory() as name, running_server(None) as server:
        folder = Path(name)
        with orthanc(folder) as (url, dicom_port), node(folder, server.port, dicom_port) as started:
            process, port = started
            singles = [_delivery_s(original, port, url) for _ in range(asked.single + 1)][1:]
            began, before = time.perf_counter(), _stored(url)
            _send_many(original, port, asked.many)
            wanted = before + _RESULTS * asked.many
            is_complete = _await_stored(url, wanted, asked.patience_s)
            many_s, lost = time.perf_counter() - began, wanted - _stored(url)
            node_bytes = _peak_bytes(process.pid)
    figures = {
        "median_s": round(statistics.median(singles), 3),
        "slowest_s": round(max(singles), 3),
        "many": asked.many,
        "many_s": round(many_s, 1),
        "objects_lost": lost,
        "node_peak_mb": round(node_bytes / 1e6, 1),
    }
    print(f"{processor_name()}, {os.cpu_count()} processors, X-rays of 2048 x 2048 pixels")
    for label, value in figures.items():
        print(f"{label:<20} {value:>8}")
    print(json.dumps(figures))
    is_met = figures["median_s"] < MOST_MEDIAN_S and is_complete and node_bytes < MOST_NODE_BYTES
    return int(not is_met)


@contextmanager
def orthanc(folder: Path) -> Generator[tuple[str, int], None, None]:
    """Start Orthanc; yield the address of its REST interface and its DICOM port."""
    http_port, dicom_port = _free_port(), _free_port()
    configuration = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "DicomAlwaysAllowStore": True,
        "HttpPort": http_port,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    url = f"http://127.0.0.1:{http_port}"
    program = shutil.which("Orthanc") or ORTHANC
    with (
        (folder / "orthanc.log").open("w") as log,
        subprocess.Popen([program, str(path)], stdout=log, stderr=log) as process,
    ):
        try:
            _await_port(http_port)
            yield url, dicom_port
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def node(
    folder: Path, service_port: int, orthanc_port: int
) -> Generator[tuple[subprocess.Popen[bytes], int], None, None]:
    """Start a node; yield its process and its port."""
    port = _free_port()
    path = folder / "node.toml"
    path.write_text(
        _NODE.format(
            spool=folder / "spool",
            node_port=port,
            service_port=service_port,
            orthanc_port=orthanc_port,
        )
    )
    command = [sys.executable, "-m", "service.dicom_node", "--config", str(path)]
    with (
        (folder / "node.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            _await_port(port)
            yield process, port
        finally:
            process.terminate()
            process.wait(60)


def _delivery_s(original: Dataset, port: int, url: str) -> float:
    """Return the seconds from the end of C-STORE until the results of one X-ray are stored."""
    before = _stored(url)
    _store(port, [_other(original, 0)])
    began = time.perf_counter()
    if not _await_stored(url, before + _RESULTS, 60.0):
        raise RuntimeError("the results of an X-ray did not reach Orthanc in a minute")
    return time.perf_counter() - began


def _send_many(original: Dataset, port: int, count: int) -> None:
    numbers = np.array_split(np.arange(count), _ASSOCIATIONS)
    threads = [
        threading.Thread(target=_store, args=(port, [_other(original, int(n)) for n in part]))
        for part in numbers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _other(original: Dataset, number: int) -> Dataset:
    """Return a different X-ray: new UIDs, and one pixel with another value."""
    other = Dataset()
    other.update(original)
    other.file_meta = original.file_meta
    other.SOPInstanceUID, other.SeriesInstanceUID = generate_uid(), generate_uid()
    other.StudyInstanceUID, other.InstanceNumber = generate_uid(), number
    return other


def _store(port: int, xrays: Sequence[Dataset]) -> None:
    entity = AE("MODALITY")
    entity.add_requested_context(xrays[0].SOPClassUID, xrays[0].file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="LUNGSEG")
    if not association.is_established:
        raise RuntimeError("the node does not take an association")
    for xray in xrays:
        status = association.send_c_store(xray)
        if status.get("Status") != 0:
            raise RuntimeError(f"the node answers C-STORE with {status.get('Status')}")
    association.release()


def _stored(url: str) -> int:
    with urllib.request.urlopen(f"{url}/statistics") as answer:
        return int(json.load(answer)["CountInstances"])


def _await_stored(url: str, count: int, patience_s: float) -> bool:
    give_up_at = time.perf_counter() + patience_s
    while _stored(url) < count:
        if time.perf_counter() > give_up_at:
            return False
        time.sleep(0.02)
    return True


def _peak_bytes(process: int) -> int:
    text = Path(f"/proc/{process}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _await_port(port: int, patience_s: float = 60.0) -> None:
    give_up_at = time.monotonic() + patience_s
    while time.monotonic() < give_up_at:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


if __name__ == "__main__":
    sys.exit(main())
