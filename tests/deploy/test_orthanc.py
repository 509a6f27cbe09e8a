"""An X-ray goes into Orthanc, and its segmentation, picture and report come back into it.

With Debian's Orthanc and its DICOMweb plugin, on loopback, with the files of `deploy/orthanc`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
import uvicorn
from pydicom.dataset import Dataset

from deploy.orthanc.loopback_files import Ports, node_toml, orthanc_configuration
from tests.service.fake_model import make_app, pixels_of
from tests.service.node_peers import free_port, store, until, xray

pytest.importorskip("pynetdicom")
from service.dicom_node.fetching import FetchFailed, fetch
from service.dicom_node.node import Node, faults_of
from service.dicom_node.settings import FetchSettings, NodeSettings, SelectSettings
from service.dicom_node.spool import Spool

ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(not Path(ORTHANC).exists(), reason="Orthanc is not installed"),
]


@contextlib.contextmanager
def serving(**settings: Any) -> Generator[str, None, None]:
    """Serve a fake model."""
    port = free_port()
    app = make_app(**settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
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
def orthanc(
    folder: Path, node_port: int, workstation_port: int = 104
) -> Generator[tuple[str, int], None, None]:
    """Start Orthanc with the deployment's configuration and rule; yields its address and port."""
    ports = Ports(node=node_port, orthanc=free_port(), dicom=free_port())
    configuration = orthanc_configuration(folder / "db", ports)
    configuration["DicomModalities"] |= {
        "modality": ["MODALITY", "127.0.0.1", 104],
        "workstation": ["WORKSTATION", "127.0.0.1", workstation_port],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    url = f"http://127.0.0.1:{ports.orthanc}"
    with (
        (folder / "orthanc.log").open("w") as log,
        subprocess.Popen([ORTHANC, str(path)], stdout=log, stderr=log) as process,
    ):
        try:
            until(lambda: _answers(url))
            yield url, ports.dicom
        finally:
            process.terminate()
            process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/system").status_code == 200
    except httpx.HTTPError:
        return False


def node_settings(
    folder: Path,
    kind: str,
    service: str,
    orthanc_url: str,
    dicom_port: int,
    port: int,
    results: Sequence[str] = ("seg", "sc", "sr"),
) -> NodeSettings:
    ports = Ports(node=port, dicom=dicom_port)
    values: dict[str, Any] = tomllib.loads(node_toml(folder / "spool", ports))
    values["spool"]["min_free_bytes"] = 0
    values["segment"] = {"services": [{"url": service}], "lungs": "both", "model": "fake/1"}
    values["metrics"] = {"port": 0}
    (destination,) = values["destinations"]
    destination["results"] = results
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
        results = ("seg", "sc", "sr", "gsps")
        settings = node_settings(tmp_path, kind, service, url, dicom_port, node_port, results)
        assert faults_of(settings) == []
        node = Node(settings)
        node.start()
        try:
            assert store(dicom_port, sent, called="ORTHANC") == [0x0000]
            until(lambda: len(httpx.get(f"{url}/instances").json()) == 5)
            until(lambda: not list((tmp_path / "spool" / "jobs").iterdir()))
        finally:
            node.stop()
        (study,) = httpx.get(f"{url}/studies").json()
        assert len(httpx.get(f"{url}/studies/{study}/series").json()) == 5
        stored = {one.Modality: one for one in instances_in(url)}
        picture = _answer_as_png(service, sent)
    assert set(stored) == {"DX", "SEG", "OT", "SR", "PR"}
    assert np.array_equal(stored["SEG"].pixel_array > 0, pixels_of(picture) > 0)
    assert all(one.StudyInstanceUID == sent.StudyInstanceUID for one in stored.values())
    for modality in ("SEG", "OT", "PR"):
        assert _remarks_of_dciodvfy(stored[modality], tmp_path) == []


@pytest.mark.skipif(shutil.which("movescu") is None, reason="DCMTK is not installed")
@pytest.mark.parametrize("plane", ["detector", "none"])
def test_dcmtk_stores_finds_and_moves_what_came_of_an_xray(tmp_path: Path, plane: str) -> None:
    node_port, workstation_port = free_port(), free_port()
    sent = xray(1, ImagerPixelSpacing=[0.14, 0.15])
    sent.save_as(tmp_path / "xray.dcm", enforce_file_format=True)
    with (
        serving(dicom_plane=plane) as service,
        orthanc(tmp_path, node_port, workstation_port) as (url, dicom_port),
    ):
        settings = node_settings(tmp_path, "dimse", service, url, dicom_port, node_port)
        node = Node(settings)
        node.start()
        try:
            dcmtk("storescu", dicom_port, str(tmp_path / "xray.dcm"))
            until(lambda: len(httpx.get(f"{url}/instances").json()) == 4)
            until(lambda: not list((tmp_path / "spool" / "jobs").iterdir()))
        finally:
            node.stop()
        study = f"StudyInstanceUID={sent.StudyInstanceUID}"
        level = ("-S", "-k", "QueryRetrieveLevel=SERIES", "-k", study)
        said = dcmtk("findscu", dicom_port, *level, "-k", "Modality", "-k", "SeriesInstanceUID")
        found = set(re.findall(r"CS \[(\w+) *\] +# +\d+, \d Modality", said))
        folder = tmp_path / "moved"
        folder.mkdir()
        moved = ("-S", "-aem", "WORKSTATION", "+P", str(workstation_port), "-od", str(folder))
        dcmtk("movescu", dicom_port, *moved, "-k", "QueryRetrieveLevel=STUDY", "-k", study)
        picture = _answer_as_png(service, sent)
    assert found == {"DX", "SEG", "OT", "SR"}
    read = {one.Modality: one for one in (pydicom.dcmread(path) for path in folder.iterdir())}
    assert set(read) == found
    assert np.array_equal(read["SEG"].pixel_array > 0, pixels_of(picture) > 0)
    shared = read["SEG"].SharedFunctionalGroupsSequence[0]
    assert ("PlaneOrientationSequence" in shared) == (plane == "detector")
    assert read["DX"].PixelData == sent.PixelData
    for modality in ("SEG", "OT"):
        assert _remarks_of_dciodvfy(read[modality], tmp_path) == []


def dcmtk(program: str, port: int, *options: str) -> str:
    """Run one of DCMTK's programs against Orthanc, as a workstation; return what it says."""
    title = ("-aet", "WORKSTATION", "-aec", "ORTHANC")
    files = [option for option in options if option.endswith(".dcm")]
    others = [option for option in options if not option.endswith(".dcm")]
    command = [program, "-v", *title, *others, "127.0.0.1", str(port), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


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
