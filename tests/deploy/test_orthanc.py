"""An X-ray goes into Orthanc, and its segmentation, picture and report come back into it.

With Debian's Orthanc and its DICOMweb plugin, on loopback, with the files of `deploy/orthanc`.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
import uvicorn
from pydicom.dataset import Dataset

from tests.service.fake_model import make_app, pixels_of
from tests.service.node_peers import free_port, store, until, xray

pytest.importorskip("pynetdicom")
from service.dicom_node.fetching import FetchFailed, fetch
from service.dicom_node.node import Node, faults_of
from service.dicom_node.settings import FetchSettings, NodeSettings, SelectSettings
from service.dicom_node.spool import Spool

FILES = Path(__file__).parents[2] / "deploy" / "orthanc"
ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(not Path(ORTHANC).exists(), reason="Orthanc is not installed"),
]


@contextlib.contextmanager
def serving() -> Generator[str, None, None]:
    """Serve a fake model."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(make_app(), port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    until(lambda: _is_ready(url))
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def orthanc(folder: Path, node_port: int) -> Generator[tuple[str, int], None, None]:
    """Start Orthanc with the deployment's configuration and rule; yields its address and port."""
    http_port, dicom_port = free_port(), free_port()
    configuration = json.loads((FILES / "orthanc.json").read_text())
    configuration |= {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": [str(DICOMWEB)] if DICOMWEB.exists() else [],
        "LuaScripts": [str(FILES / "forward.lua")],
        "DicomPort": dicom_port,
        "DicomModalities": {"lungseg": ["LUNGSEG", "127.0.0.1", node_port]},
        "HttpPort": http_port,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    url = f"http://127.0.0.1:{http_port}"
    with (
        (folder / "orthanc.log").open("w") as log,
        subprocess.Popen([ORTHANC, str(path)], stdout=log, stderr=log) as process,
    ):
        try:
            until(lambda: _answers(url))
            yield url, dicom_port
        finally:
            process.terminate()
            process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/system").status_code == 200
    except httpx.HTTPError:
        return False


def node_settings(folder: Path, kind: str, service: str, orthanc_url: str, dicom_port: int,
                  port: int) -> NodeSettings:  # fmt: skip
    values: dict[str, Any] = tomllib.loads((FILES / "node.toml").read_text())
    values["spool"] = {"folder": folder / "spool", "min_free_bytes": 0}
    values["receive"] |= {"host": "127.0.0.1", "port": port}
    values["receive"]["senders"][0]["addresses"] = ["127.0.0.1"]
    values["segment"] = {"services": [{"url": service}], "lungs": "both"}
    values["metrics"] = {"port": 0}
    (destination,) = values["destinations"]
    destination |= {"host": "127.0.0.1", "port": dicom_port}
    if kind == "stow":
        destination = {
            "name": "orthanc",
            "kind": "stow",
            "url": f"{orthanc_url}/dicom-web",
            "results": destination["results"],
        }
    destination["send_refused_masks"] = True  # noise is no chest, and the fake model says so
    values["destinations"] = [destination]
    return NodeSettings(**values)


def instances_in(url: str) -> list[Dataset]:
    found: list[Dataset] = []
    for instance in httpx.get(f"{url}/instances").json():
        data = httpx.get(f"{url}/instances/{instance}/file").content
        found.append(pydicom.dcmread(io.BytesIO(data)))
    return found


@pytest.mark.parametrize("kind", ["dimse", "stow"])
def test_an_xray_in_orthanc_gets_its_results_beside_it(tmp_path: Path, kind: str) -> None:
    if kind == "stow" and not DICOMWEB.exists():
        pytest.skip("orthanc-dicomweb is not installed")
    node_port = free_port()
    sent = xray(1, ImagerPixelSpacing=[0.14, 0.15], PatientOrientation=["L", "F"])
    with serving() as service, orthanc(tmp_path, node_port) as (url, dicom_port):
        settings = node_settings(tmp_path, kind, service, url, dicom_port, node_port)
        assert faults_of(settings) == []
        node = Node(settings)
        node.start()
        try:
            assert store(dicom_port, sent, called="ORTHANC") == [0x0000]
            until(lambda: len(httpx.get(f"{url}/instances").json()) == 4)
            until(lambda: not list((tmp_path / "spool" / "jobs").iterdir()))
        finally:
            node.stop()
        (study,) = httpx.get(f"{url}/studies").json()
        assert len(httpx.get(f"{url}/studies/{study}/series").json()) == 4
        stored = {one.Modality: one for one in instances_in(url)}
        picture = _answer_as_png(service, sent)
    assert set(stored) == {"DX", "SEG", "OT", "SR"}
    assert np.array_equal(stored["SEG"].pixel_array > 0, pixels_of(picture) > 0)
    assert all(one.StudyInstanceUID == sent.StudyInstanceUID for one in stored.values())
    for modality in ("SEG", "OT"):
        assert _remarks_of_dciodvfy(stored[modality], tmp_path) == []


def test_an_xray_is_fetched_from_orthanc_by_its_uids(tmp_path: Path) -> None:
    if not DICOMWEB.exists():
        pytest.skip("orthanc-dicomweb is not installed")
    sent = xray(1)
    other = xray(2, StudyInstanceUID=sent.StudyInstanceUID, BodyPartExamined="HAND")
    study, series, instance = (
        *(sent.StudyInstanceUID, sent.SeriesInstanceUID, sent.SOPInstanceUID),
    )
    select = SelectSettings()
    with orthanc(tmp_path, free_port()) as (url, dicom_port):
        assert store(dicom_port, sent, other, called="ORTHANC") == [0x0000, 0x0000]
        settings = FetchSettings(url=f"{url}/dicom-web")
        for uids in ((study,), (study, series), (study, series, instance)):
            spool = Spool(tmp_path / f"spool-{len(uids)}", 10**9, 0)
            (job,), skipped = fetch(settings, select, spool, uids)
            spool.close()
            assert skipped == (1 if len(uids) == 1 else 0)
            assert pydicom.dcmread(job.xray).SOPInstanceUID == instance
        spool = Spool(tmp_path / "spool", 10**9, 0)
        with pytest.raises(FetchFailed, match="UIDs"):
            fetch(settings, select, spool, ("1.2.3",))
    with pytest.raises(FetchFailed, match="does not answer"):
        fetch(settings, select, spool, (study,))
    spool.close()


def _answer_as_png(service: str, sent: Dataset) -> bytes:
    buffer = io.BytesIO()
    sent.save_as(buffer, enforce_file_format=True)
    headers = {"Content-Type": "application/dicom", "Accept": "image/png"}
    return httpx.post(f"{service}/segment", content=buffer.getvalue(), headers=headers).content


def _remarks_of_dciodvfy(dataset: Dataset, folder: Path) -> list[str]:
    program = shutil.which("dciodvfy")
    if program is None:
        return []
    path = folder / "stored.dcm"
    dataset.save_as(path, enforce_file_format=True)
    found = subprocess.run([program, "-new", path], capture_output=True, text=True, check=False)
    lines = [line for line in found.stderr.splitlines() if line.startswith(("Error", "Warning"))]
    # The X-ray of the test has no dates, which only a DICOMDIR would need.
    return [line for line in lines if "DICOMDIR" not in line]
